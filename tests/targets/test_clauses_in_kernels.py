"""Kernels of patterns with inputs, axes, orders and scores against dense attention in float64, gradients included."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attnspec
from attnspec.runtime.core.arguments import CallError
from tests.support.clauses import CLAUSES, HEADS, documents, slopes
from tests.support.oracle import agree, tensors
from tests.support.strategies import Case, cases


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
    inputs = {**documents(1, 70), **slopes(1, 70)}
    layer = torch.compile(lambda q, k, v, **inputs: attend(q, k, v, **inputs), fullgraph=True)
    got, want = layer(q, k, v, **inputs), attend(q, k, v, **inputs)
    torch.testing.assert_close(got, want)
    sources = (q, k, v, inputs["slope"])
    pairs = zip(*(torch.autograd.grad((out**2).sum(), sources) for out in (got, want)), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
