"""Queries turned by the kernel as it loads them, where no gradients are wanted: the same as turned before it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import attnspec
from attnspec.runtime import operator
from attnspec.runtime.rotate import angles
from tests.oracle import close, tensors

PATTERNS = {
    "half": "attend window(50)  rotate rope()",
    "pairs": "attend causal  rotate rope(layout = pairs)",
    "some dimensions": "attend causal  rotate rope(layout = pairs, dims = 6)",
    "residues": "attend 0 <= q - k < 60 and (q - k) % 4 == 0  rotate rope()",
    "lists": "attend neighborhood(16, 2, 3)  rotate rope()",
    "passes": "attend window(16)  attend strided(16)  within causal  rotate yarn(original = 64, factor = 4)",
    "decays": "attend causal  rotate xpos()",
    "score lines": "attend causal  score s + (k - q) / 16  rotate rope()",
    "positions by head": "attend causal  rotate rope() at (q * (h + 1), k * (h + 1))",
    "of length one": "attend causal  normalize q  rotate rope()",
    "mixture": "mix w in [8, 64] { attend window(w) }  rotate rope()",
}


# Compilers may fuse the products and sums of either in other ways: one rounding of the turned queries.
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def compiled(name: str) -> attnspec.Attention:
    return attnspec.compile(f"attention a {{ {PATTERNS[name]} }}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", PATTERNS)
def test_same_results(name: str, dtype: torch.dtype) -> None:
    attend = compiled(name)
    shared = name != "positions by head"
    for n, n_q, kv_heads in ((200, 200, 4), (77, 31, 2 if shared else 4), (90, 1, 1 if shared else 4), (40, 70, 4)):
        q, k, v = tensors(n, n_q, heads=4, kv_heads=kv_heads, batch=2, dim=24, dtype=dtype)
        want, want_lse = attend(q, k, v, return_lse=True)
        with torch.no_grad():
            got, got_lse = attend(q, k, v, return_lse=True)
        close("out", got, want, ROUNDING[dtype])
        empty = torch.isneginf(want_lse)
        assert torch.equal(torch.isneginf(got_lse), empty)
        close("lse", got_lse.masked_fill(empty, 0.0), want_lse.masked_fill(empty, 0.0), ROUNDING[dtype])


def test_strided_queries() -> None:
    attend = compiled("half")
    q = torch.randn(1, 4, 16, 120).transpose(2, 3)
    k, v = torch.randn(2, 1, 4, 120, 16).unbind(0)
    close("out", attend(q, k, v), attend(q.contiguous(), k, v), 1e-6)


def test_positions_from_an_input() -> None:
    text = "attention a { input place: int[batch, n]  attend causal  rotate rope() at (place[b, q], place[b, k]) }"
    attend = attnspec.compile(text)
    q, k, v = tensors(60, batch=2)
    given = {"place": torch.randint(0, 1000, (2, 60), generator=torch.Generator().manual_seed(0))}
    with torch.no_grad():
        got = attend(q, k, v, **given)
    close("out", got, attend(q, k, v, **given), 2e-6)


def test_the_kernel_turns_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what happens, and only without gradients."""
    calls: list[Any] = []
    turning = operator.attend_turning

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return turning(*arguments)

    monkeypatch.setattr(operator, "attend_turning", counted)
    attend = compiled("half")
    q, k, v = tensors(40)
    attend(q, k, v)
    assert not calls
    with torch.no_grad():
        attend(q, k, v)
    assert len(calls) == 1
    assert torch.equal(calls[0][0], q), "they arrive unturned"


def test_operator() -> None:
    attend = compiled("half")
    q, k, v = (t.detach() for t in tensors(40))
    cos, sin, pairs = angles(q, range(40), attend.spec.rotations[0], "q")
    arguments = (q, k, v, cos, sin, pairs, [], None, None, -1, 0.25, attend.program.encoded)
    torch.library.opcheck(operator.attend_turning, arguments, test_utils=("test_schema", "test_faketensor"))
