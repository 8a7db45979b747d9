"""Kernels of patterns with inputs, axes, orders and scores against dense attention in float64, gradients included."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attnspec
from attnspec.runtime.core.arguments import CallError
from tests.support.oracle import agree, tensors
from tests.support.strategies import Case, cases

HEADS = 4
Inputs = Callable[[int, int], dict[str, Tensor]]


def _random(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


def _documents(batch: int, n: int) -> dict[str, Tensor]:
    return {"doc": (_random(batch, n) < 0.03).cumsum(-1)}


def _offsets(batch: int, n: int) -> dict[str, Tensor]:
    return {"doc": torch.tensor([0, min(3, n), n // 2, n // 2, n])}


def _blocks(batch: int, n: int) -> dict[str, Tensor]:
    return {"keep": _random(batch, HEADS, -(-n // 32), -(-n // 32)) < 0.4}


def _lists(batch: int, n: int) -> dict[str, Tensor]:
    return {"top": (_random(batch, HEADS, -(-n // 32), 3) * (n // 32 + 3)).long() - 1}


def _slopes(batch: int, n: int) -> dict[str, Tensor]:
    return {"slope": (_random(HEADS) * 0.1).requires_grad_()}


def _table(batch: int, n: int) -> dict[str, Tensor]:
    return {"bias": _random(HEADS, 32).requires_grad_()}


def _full(batch: int, n: int) -> dict[str, Tensor]:
    return {"bias": _random(batch, n, n).requires_grad_()}


def _nothing(batch: int, n: int) -> dict[str, Tensor]:
    return {}


LSH = "order by lsh(buckets = 8, rounds = 2)"
CLAUSES: dict[str, tuple[str, Inputs]] = {
    "documents": ("input doc: int[batch, n] sorted  attend causal and doc[q] == doc[k]", _documents),
    "offsets": ("input doc: int[n] offsets  attend doc[q] == doc[k]  within causal", _offsets),
    "documents in a union": ("input doc: int[batch, n] sorted  attend doc[q] == doc[k]  attend k < 5", _documents),
    "other documents": ("input doc: int[batch, n] sorted  attend causal and not doc[q] == doc[k]", _documents),
    "local window": (
        "input doc: int[batch, n] sorted  within doc[q] == doc[k]"
        "  attend window(20) at (q - first(doc, q), k - first(doc, k))",
        _documents,
    ),
    "local dilated": (
        "input doc: int[batch, n] sorted  within doc[q] == doc[k]"
        "  attend dilated(8, 3) at (q - last(doc, q), k - last(doc, k))",
        _documents,
    ),
    "padding": (
        "input length: int[batch]  attend causal  within k < length",
        lambda b, n: {"length": torch.arange(b) * 9 + n // 2},
    ),
    "prefix": (
        "input p: int[batch, heads]  attend causal  attend k < p",
        lambda b, n: {"p": (_random(b, HEADS) * n).long()},
    ),
    "flags by key": ("input live: bool[n]  attend causal and live[k]", lambda b, n: {"live": _random(n) < 0.5}),
    "block table": (
        "input keep: bool[batch, heads, (n + 31) // 32, (n + 31) // 32]  attend causal and keep[q // 32, k // 32]",
        _blocks,
    ),
    "block table in a union": (
        "input keep: bool[batch, heads, (n + 31) // 32, (n + 31) // 32]  attend keep[q // 32, k // 32]"
        "  attend |q - k| < 4",
        _blocks,
    ),
    "block list": (
        "input top: int[batch, heads, (n + 31) // 32, 3]  attend causal and k // 32 in top[q // 32]",
        _lists,
    ),
    "odd blocks": ("input top: int[batch, heads, (n + 31) // 32, 3]  attend (k + 7) // 32 in top[q // 32]", _lists),
    "product of positions": ("attend causal and q * k % 7 < 3", _nothing),
    "alibi": ("attend causal  score s + alibi_slope(h, heads) * (k - q)", _nothing),
    "slopes": ("input slope: float[heads]  attend causal  attend strided(8)  score s + slope[h] * (k - q)", _slopes),
    "softcap": ("attend window(40)  score softcap(s, 2.0)", _nothing),
    "learned buckets": (
        "input bias: float[heads, 32]  attend |q - k| < 90  score s + bias[h, t5_bucket(k - q, 32, 128, true)]",
        _table,
    ),
    "full bias": ("input bias: float[batch, n, n]  attend causal  score s / 2 + bias[b, q, k] * 3", _full),
    "two score lines": ("attend causal  score s + (k - q) / 16  score tanh(s) * 2.0", _nothing),
    "sink": ("input slope: float[heads]  attend window(20) and q > 30  sink slope[h]", _slopes),
    "sink and mixture": (
        "input slope: float[heads]  mix w in [8, 32] weights detached { attend window(w) }  sink slope[h]",
        _slopes,
    ),
    "rotations": ("attend causal  rotate rope(theta = 100)  scale 0.3  normalize k", _nothing),
    "axes": (
        "axis token[n]  axis summary[n // 4]  axis latent[7] queries  token -> token: causal"
        "  token -> summary: k < q // 4  summary -> token: q == k // 4  latent -> token: k % 7 == q",
        _nothing,
    ),
    "lsh": (f"{LSH}  attend q.slot // 16 - k.slot // 16 in 0..2  within causal", _nothing),
    "lsh in buckets": (f"{LSH}  attend q.bucket == k.bucket and |q.slot - k.slot| < 12", _nothing),
    "lsh with wraparound": (
        f"{LSH}  attend q.slot // 16 - k.slot // 16 in 0..2"
        "  attend q.slot // 16 == 0 and k.slot // 16 == 2 * n // 16 - 1"
        "  within causal  score if q == k then -50.0 else s  normalize k",
        _nothing,
    ),
}


@pytest.mark.parametrize("name", CLAUSES)
def test_clauses(name: str) -> None:
    clauses, inputs = CLAUSES[name]
    attend = attnspec.compile(f"attention a {{ {clauses} }}")
    for n, kv_heads, batch in ((200, HEADS, 2), (65, 2, 1), (330, 1, 2)):
        n_q = n + 7 if name == "axes" else n
        q, k, v = tensors(n, n_q, heads=HEADS, kv_heads=kv_heads, batch=batch, seed=n)
        agree(attend, q, k, v, inputs=inputs(batch, n))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["documents", "block list", "alibi", "softcap", "sink", "lsh", "sink and mixture"])
def test_clauses_in_16_bits(name: str, dtype: torch.dtype) -> None:
    clauses, inputs = CLAUSES[name]
    attend = attnspec.compile(f"attention a {{ {clauses} }}")
    q, k, v = tensors(200, heads=HEADS, kv_heads=2, dim=24, dtype=dtype)
    agree(attend, q, k, v, inputs=inputs(1, 200))


@pytest.mark.parametrize("name", ["documents", "local window", "padding", "prefix", "alibi", "sink"])
def test_fewer_queries_and_more(name: str) -> None:
    clauses, inputs = CLAUSES[name]
    attend = attnspec.compile(f"attention a {{ {clauses} }}")
    for n, n_q in ((150, 1), (150, 40), (40, 70)):
        q, k, v = tensors(n, n_q, heads=HEADS)
        agree(attend, q, k, v, inputs=inputs(1, n))


@settings(max_examples=max(8, settings().max_examples // 20))
@given(cases(inputs=True), st.sampled_from([1, 2]))
def test_generated_inputs(case: Case, kv_heads: int) -> None:
    """Each example compiles two kernels; the arrays are those of the case."""
    attend = attnspec.compile(case.text, params=case.params)
    heads = case.heads if case.heads % kv_heads == 0 else case.heads * kv_heads
    if heads != case.heads:
        return
    q, k, v = tensors(case.n, case.n_q, heads, kv_heads, case.batch, seed=case.n)
    agree(attend, q, k, v, inputs={name: torch.from_numpy(array) for name, array in case.inputs.items()})


def test_bound_names_choose_lists() -> None:
    """Too many values to be written out, but each chooses a list for another (found by reading: an internal error)."""
    lists = [[i, 5 * i] for i in range(70)]
    attend = attnspec.compile(
        f"attention a {{ attend causal  within any i in 0..70: any j in {lists}[i]: q - k == j }}"
    )
    agree(attend, *tensors(200, heads=HEADS))


def test_tables_know_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles in tables are found for each call's own lengths (found by reading: they were not given to the sets)."""
    monkeypatch.setattr("attnspec.codegen.plan.tiling.UNWIELDY", 0)
    clauses, _ = CLAUSES["padding"]
    attend = attnspec.compile(f"# tables\nattention a {{ {clauses} }}")
    assert attend.plan.tabled
    for lengths in ([50, 150], [150, 60]):
        agree(attend, *tensors(200, heads=HEADS, batch=2), inputs={"length": torch.tensor(lengths)})


def test_impossible_lengths_are_refused() -> None:
    attend = attnspec.compile("attention a { axis token[n]  axis summary[n // 4]  token -> token: causal }")
    q, k, v = tensors(19)
    with pytest.raises(CallError, match="no n makes the axes add up to 19 keys"):
        attend(q, k, v)


def test_axes_are_named() -> None:
    attend = attnspec.compile("attention a { axis token[n]  axis pooled[n // 4] keys  token -> token: causal }")
    assert attend.axes(8) == {"token": (slice(0, 8), slice(0, 8)), "pooled": (None, slice(8, 10))}


def test_positions_that_would_overflow_are_refused() -> None:
    attend = attnspec.compile("attention a { attend q * k % 7 == 0 }")
    q = torch.empty(1, 1, 1, 8).expand(1, 1, (1 << 30) + 1, 8)
    with pytest.raises(CallError, match="lengths of 1,073,741,824"):
        attend(q[:, :, :1], q, q)


def test_compiles_without_graph_breaks() -> None:
    clauses = (
        "input doc: int[batch, n] sorted  input slope: float[heads]  attend causal and doc[q] == doc[k]"
        "  score s + slope[h] * (k - q)  rotate rope(theta = 100)  sink slope[h]"
    )
    attend = attnspec.compile(f"attention a {{ {clauses} }}")
    q, k, v = tensors(70, heads=HEADS)
    inputs = {**_documents(1, 70), **_slopes(1, 70)}
    layer = torch.compile(lambda q, k, v, **inputs: attend(q, k, v, **inputs), fullgraph=True)
    got, want = layer(q, k, v, **inputs), attend(q, k, v, **inputs)
    torch.testing.assert_close(got, want)
    sources = (q, k, v, inputs["slope"])
    pairs = zip(*(torch.autograd.grad((out**2).sum(), sources) for out in (got, want)), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
