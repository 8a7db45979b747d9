"""Keys in pages by Triton kernels, in the interpreter: each entry gives what dense attention to its own keys gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import attnspec
from tests.support.pages import agree_in_pages, in_pages
from tests.support.shipped import SMALL
from tests.support.targets import compiled

LENGTHS = (37, 0, 1, 70)
PATTERNS: dict[str, dict[str, Any]] = {
    "causal": {},
    "window": {"width": 20},
    "dilated": {"width": 8, "rate": 4},
    "longformer": {"width": 16, "globals": 3},
    "alibi": {},
    "sinks": {"recent": 20},
    "chunked": {"size": 24},
    "gpt_oss": {"width": 24},
}


def queries(batch: int, n_q: int) -> torch.Tensor:
    return torch.randn(batch, 4, n_q, 16, generator=torch.Generator().manual_seed(1))


def test_lengths_of_their_own() -> None:
    """A page holds less than a tile, and rows that hold no key are NaN; heads that share keys share a tile."""
    attend = compiled("window", "triton", params={"width": 20}, tile=(16, 16))
    agree_in_pages(attend, queries(3, 1), in_pages(LENGTHS[:3], 7, dim=16))


@pytest.mark.slow
@pytest.mark.parametrize("name", PATTERNS)
def test_patterns(name: str) -> None:
    attend = compiled(name, "triton", params=PATTERNS[name])
    rotated = name == "gpt_oss"
    for size, layout, n_q in ((16, "HND", 1), (5, "NHD", 3), (64, "HND", 20)):
        held = in_pages(LENGTHS, size, layout=layout, shared=2)
        inputs = {"sinks": torch.randn(4)} if rotated else None
        agree_in_pages(attend, queries(len(LENGTHS), n_q), held, layout=layout, rotated=rotated, inputs=inputs)


@pytest.mark.slow
@pytest.mark.parametrize("shares", [2, 5])
def test_shares(shares: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs share out the keys of the longest entry; some have none of the others'."""
    monkeypatch.setattr("attnspec.runtime.triton.run._shares", lambda *_: shares)
    attend = compiled("padded", "triton", tile=(16, 16))
    held, length = in_pages(LENGTHS, 16), torch.tensor([30, 0, 1, 60])
    own = [{"length": length[b : b + 1]} for b in range(len(LENGTHS))]
    agree_in_pages(attend, queries(len(LENGTHS), 2), held, inputs={"length": length}, by_entry=own)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("packed", "has an input that is sized by `n` \\(`doc`\\)"),
        ("swin", "has kernels that read lists of positions"),
        ("hierarchical", "has axes"),
    ],
)
def test_what_has_no_pages_on_a_gpu(name: str, what: str) -> None:
    held = in_pages((40, 40), 16)
    attend = attnspec.compile(name, target="triton", params=SMALL.get(name, {}))
    given = {"doc": torch.zeros(2, 40, dtype=torch.int32)} if name == "packed" else {}
    with pytest.raises(attnspec.CallError, match=f"{name}: the pattern {what}"):
        attend.paged(queries(2, 40), held.k_pages, held.v_pages, table=held.table, lengths=held.lengths, inputs=given)
