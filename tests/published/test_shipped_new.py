"""Every shipped spec with inputs, mixtures, axes, orders or scores: checked, compiled, and equal to dense attention."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

import attnspec
from attnspec.check.check import check_text
from attnspec.runtime import attend as around
from attnspec.runtime.core.request import sizes_of
from attnspec.runtime.prepare.example import example
from attnspec.runtime.prepare.order import hash_buckets
from tests.published.comparing import TOLERANCE, close, random
from tests.support.marks import slow
from tests.support.shipped import SOFTMAX, is_a_mask


@dataclass
class Case:
    """The parameters of a spec and the sizes of a call; ``more`` are inputs in place of the generated ones.

    ``unread`` is one that a call of this length does not read.
    """

    params: dict[str, Any] = field(default_factory=dict)
    n: int = 150
    n_q: int | None = None
    heads: int = 2
    kv_heads: int | None = None
    batch: int = 2
    more: dict[str, Any] = field(default_factory=dict)
    unread: str = ""
    tolerance: float = TOLERANCE


DOC = [[0] * 40 + [1] * 5 + [4] * 105, [0] * 1 + [1] * 99 + [2] * 50]
TOP = [[[[0, 3, 9], [1, 1, -1], *[[2, 7, 5]] * 8]] * 2] * 2
STRETCHES = {"short": [1.0 + 0.1 * i for i in range(8)], "long": [1.5 + 0.5 * i for i in range(8)]}
CASES = {
    "longnet": Case({"branches": [[16, 1], [32, 2], [64, 4]]}, heads=4),
    "reformer": Case({"buckets": 8, "rounds": 3, "chunk": 16}, n=144),
    "reformer_bucket": Case({"buckets": 8, "rounds": 2, "chunk": 16}, n=150),
    "bigbird": Case({"block": 8, "randoms": 2}, n=150),
    "bigbird_mixture": Case({"block": 8, "randoms": 2}, n=112),
    "packed": Case(more={"doc": DOC}, heads=4, kv_heads=2),
    "packed_offsets": Case(more={"cu_seqlens": [0, 40, 45, 45, 150]}),
    "packed_window": Case({"start": 2, "recent": 20}, more={"doc": DOC}),
    "padded": Case(more={"length": [150, 77]}, n_q=60),
    "left_padded": Case(more={"start": [0, 33]}),
    "prefix_lm_lengths": Case(more={"length": [0, 70]}),
    "block_table": Case({"block": 16}),
    "block_topk": Case({"block": 16}, more={"top": TOP}),
    "hierarchical": Case({"segment": 32, "slots": 3}, n=150 + 15),
    "memory": Case({"slots": 7}, n=150 + 14),
    "rmt": Case({"slots": 7}, n=150 + 14),
    "rmt_both_ways": Case({"slots": 7}, n=150 + 14),
    "hmt": Case({"before": 9}, n=150 + 11),
    "transformer_xl": Case({"length": 50, "same_length": True}, n=150 + 50, n_q=150),
    "memory_layers": Case({"length": 70}, n=150 + 70, n_q=150),
    "etc": Case({"globals": 10, "radius": 12}, n=160),
    "longformer_axes": Case({"width": 24, "globals": 5}, n=300, n_q=155),
    "transformer_xl_positions": Case(n_q=60),
    "alibi": Case(heads=6, kv_heads=2),
    "alibi_window": Case({"width": 40}, heads=4),
    "softcap": Case({"width": 32, "cap": 2}),
    "t5_bias": Case({"buckets": 16, "furthest": 60}, n_q=100),
    "gpt_oss": Case({"width": 32}, heads=4, kv_heads=1),
    "rope": Case({"theta": 500}, n_q=100),
    "xpos": Case({"block": 32, "decay": 64}),
    "yarn": Case({"original": 64}),
    "streaming": Case({"start": 4, "recent": 30}),
    "streaming_cache": Case({"start": 4, "recent": 30}, n_q=100),
    "llama3": Case({"original": 64}, n_q=100),
    "longrope": Case({"original": 64, "dims": 16}, more=STRETCHES, unread="short"),
    "mrope": Case({"time": 2, "height": 3}, n_q=100),
    "tree": Case(n_q=37, heads=4, kv_heads=2),
    "rope_2d": Case({"width": 12, "dims": 16}),
}
QUICK = ("longnet", "reformer", "packed_window", "block_topk", "gpt_oss", "t5_bias", "xpos", "longrope", "mrope")
"""Of the rest the suite has quick tests of the same clauses, with other flags of the compiler."""


def test_every_spec_that_is_more_than_a_mask_is_here() -> None:
    assert sorted(CASES) == [name for name in SOFTMAX if not is_a_mask(attnspec.read(name))]


@pytest.mark.parametrize("name", CASES)
def test_a_spec_is_right_and_names_its_source(name: str) -> None:
    found = attnspec.read(name)
    assert found.name == name
    assert "20" in found.doc  # the year of its source
    assert str(check_text(str(found))) == str(found)


@pytest.mark.parametrize("name", [name if name in QUICK else slow(name) for name in CASES])
def test_a_spec_is_what_its_dense_form_computes(name: str) -> None:
    """Output, log-sum-exp and the gradients of both, in float32 against float64."""
    case = CASES[name]
    attend = attnspec.compile(name, params=case.params)
    n_q, kv_heads = case.n if case.n_q is None else case.n_q, case.kv_heads or case.heads
    shapes = {"q": (case.heads, n_q, 16), "k": (kv_heads, case.n, 16), "v": (kv_heads, case.n, 16)}
    sources = {x: random(case.batch, *shape, seed=i) for i, (x, shape) in enumerate(shapes.items())}
    sizes = sizes_of(attend.spec, sources["q"], sources["k"])
    inputs = example(attend.spec, sizes, torch.Generator().manual_seed(5))
    inputs |= {key: torch.tensor(value) for key, value in case.more.items()}
    if attend.spec.order is not None:
        inputs["buckets"] = hash_buckets(sources["q"], attend.spec.order)  # float64 might hash to others
    sources |= {key: x.requires_grad_() for key, x in inputs.items() if x.is_floating_point() and key != case.unread}
    exact = {key: x.detach().double().requires_grad_() for key, x in sources.items()}
    out, lse = attend(**{**inputs, **sources}, return_lse=True)
    given = {key: exact.get(key, x) for key, x in inputs.items()}
    want, want_lse = around.dense(attend.spec, exact["q"], exact["k"], exact["v"], None, given)
    assert torch.equal(lse.isinf(), want_lse.isinf())
    lse, want_lse = lse.masked_fill(lse.isinf(), 0.0), want_lse.masked_fill(lse.isinf(), 0.0)
    close("out", out, want, case.tolerance)
    close("lse", lse, want_lse, case.tolerance)
    d_out, d_lse = random(*out.shape, seed=7).detach(), random(*lse.shape, seed=8).detach()
    got = torch.autograd.grad((out, lse), list(sources.values()), (d_out, d_lse))
    expected = torch.autograd.grad((want, want_lse), list(exact.values()), (d_out.double(), d_lse.double()))
    for key, a, b in zip(sources, got, expected, strict=True):
        close(f"gradient of {key}", a, b, case.tolerance)
        assert b.abs().max() > 0
