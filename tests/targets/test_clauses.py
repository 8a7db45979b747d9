"""Kernels of patterns with inputs, axes, orders and scores against dense attention in float64, gradients included."""

from __future__ import annotations

import pytest
import torch

from attnspec.runtime.core.arguments import CallError
from tests.support.clauses import CLAUSES, HEADS, documents, slopes
from tests.support.marks import slow
from tests.support.oracle import agree, tensors
from tests.support.targets import TARGETS, compiled

SHORT, LONG = ((45, 2, 1),), ((200, HEADS, 2), (65, 2, 1), (330, 1, 2))
QUICK = {
    "cpp": (
        *("documents", "local window", "local ends", "padding", "flags by key", "odd blocks", "alibi", "softcap"),
        *("full bias", "reals compared", "sink", "rotations", "lsh"),
    ),
    "triton": (
        *("offsets", "local sinks", "prefix", "block table", "block list", "product of positions", "learned buckets"),
        *("floor of a score", "two score lines", "sink and mixture", "axes", "lsh in buckets"),
    ),
}
CALLS = [
    (name, target, calls) if name in QUICK[target] else slow(name, target, calls)
    for target, calls in (("cpp", LONG), ("triton", SHORT))
    for name in CLAUSES
]
CALLS += [
    *(slow(name, "triton", ((73, HEADS, 2), (65, 2, 1))) for name in CLAUSES),
]


@pytest.mark.parametrize(("name", "target", "calls"), CALLS)
def test_clauses(name: str, target: str, calls: tuple[tuple[int, int, int], ...]) -> None:
    clauses, inputs = CLAUSES[name]
    attend = compiled(f"attention a {{ {clauses} }}", target)
    for n, kv_heads, batch in calls:
        n_q = n + 7 if name == "axes" else n
        q, k, v = tensors(n, n_q, heads=HEADS, kv_heads=kv_heads, batch=batch, seed=n)
        agree(attend, q, k, v, inputs=inputs(batch, n))


F16, BF16 = torch.float16, torch.bfloat16
IN_16_BITS = [
    *(("block list", F16), ("alibi", BF16), ("sink and mixture", BF16)),
    *(slow(*case) for case in (("documents", BF16), ("softcap", F16), ("sink", BF16), ("lsh", F16))),
    *(slow(*case) for case in (("documents", F16), ("block list", BF16), ("alibi", F16), ("softcap", BF16))),
    *(slow(*case) for case in (("sink", F16), ("lsh", BF16), ("sink and mixture", F16))),
]


@pytest.mark.parametrize(("name", "dtype"), IN_16_BITS)
def test_clauses_in_16_bits(name: str, dtype: torch.dtype) -> None:
    clauses, inputs = CLAUSES[name]
    q, k, v = tensors(200, heads=HEADS, kv_heads=2, dim=24, dtype=dtype)
    agree(compiled(f"attention a {{ {clauses} }}", "cpp"), q, k, v, inputs=inputs(1, 200))


FEWER = ("documents", "local window", "local ends", "padding", "alibi", "sink", "local sinks", "prefix")


@pytest.mark.parametrize(
    ("target", "name"),
    [
        *(("cpp", name) if name in QUICK["cpp"] else slow("cpp", name) for name in FEWER),
        *(("triton", "documents"), *(slow("triton", name) for name in FEWER[1:])),
    ],
)
def test_fewer_queries_and_more(target: str, name: str) -> None:
    clauses, inputs = CLAUSES[name]
    attend = compiled(f"attention a {{ {clauses} }}", target)
    for n, n_q in {"cpp": ((150, 1), (150, 40), (40, 70)), "triton": ((90, 1), (40, 70))}[target]:
        agree(attend, *tensors(n, n_q, heads=HEADS), inputs=inputs(1, n))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpp", slow("triton")])
def test_a_sink_of_each_row(target: str) -> None:
    attend = compiled("attention a { input far: float[heads, n_q]  attend causal  sink far[h, q] - q / 16 }", target)
    for n, n_q in ((90, 3), (40, 70)):
        far = torch.randn(HEADS, n_q, generator=torch.Generator().manual_seed(0))
        agree(attend, *tensors(n, n_q, heads=HEADS), inputs={"far": far})
    ordered = "order by lsh(buckets = 8, rounds = 2)  attend q.bucket == k.bucket  sink q / 8 - 2.0"
    agree(compiled(f"attention a {{ {ordered} }}", target), *tensors(40, heads=2))


@pytest.mark.parametrize("target", TARGETS)
def test_names_of_inputs_never_meet(target: str) -> None:
    """Kernels have parameters of their own for what is derived from an input, and for its sizes."""
    attend = compiled(
        "attention a { input doc: int[n] sorted  input doc_first: int[n]  input doc_size0: int[n]"
        "  input size0_in_doc: float[n]  input first_of_doc: float[n]  within causal"
        "  attend doc[q] == doc[k] and k - first(doc, k) < doc_first[q]  attend doc_size0[q] == k"
        "  score s + size0_in_doc[k] - first_of_doc[q] }",
        target,
    )
    n, generator = 45, torch.Generator().manual_seed(0)
    inputs = {
        "doc": torch.arange(n) // 20,
        "doc_first": torch.randint(0, 20, (n,), generator=generator),
        "doc_size0": torch.randint(0, n, (n,), generator=generator),
        "size0_in_doc": torch.randn(n, generator=generator),
        "first_of_doc": torch.randn(n, generator=generator),
    }
    agree(attend, *tensors(n), inputs=inputs)


@pytest.mark.parametrize("target", TARGETS)
def test_bound_names_choose_lists(target: str) -> None:
    """Too many values to be written out, but each chooses a list for another (found by reading: an internal error)."""
    lists = [[i, 5 * i] for i in range(70)]
    text = f"attention a {{ attend causal  within any i in 0..70: any j in {lists}[i]: q - k == j }}"
    n, heads = {"cpp": (200, HEADS), "triton": (40, 1)}[target]
    agree(compiled(text, target), *tensors(n, heads=heads))


@pytest.mark.parametrize("target", TARGETS)
def test_impossible_lengths_are_refused(target: str) -> None:
    attend = compiled("attention a { axis token[n]  axis summary[n // 4]  token -> token: causal }", target)
    q, k, v = tensors(19)
    with pytest.raises(CallError, match="no n makes the axes add up to 19 keys"):
        attend(q, k, v)


@pytest.mark.parametrize("target", TARGETS)
def test_axes_are_named(target: str) -> None:
    attend = compiled("attention a { axis token[n]  axis pooled[n // 4] keys  token -> token: causal }", target)
    assert attend.axes(8) == {"token": (slice(0, 8), slice(0, 8)), "pooled": (None, slice(8, 10))}


def test_positions_that_would_overflow_are_refused() -> None:
    attend = compiled("attention a { attend q * k % 7 == 0 }", "cpp")
    q = torch.empty(1, 1, 1, 8).expand(1, 1, (1 << 30) + 1, 8)
    with pytest.raises(CallError, match="lengths of 1,073,741,824"):
        attend(q[:, :, :1], q, q)


@pytest.mark.slow
def test_compiles_without_graph_breaks() -> None:
    clauses = (
        "input doc: int[batch, n] sorted  input slope: float[heads]  attend causal and doc[q] == doc[k]"
        "  score s + slope[h] * (k - q)  rotate rope(theta = 100)  sink slope[h]"
    )
    attend = compiled(f"attention a {{ {clauses} }}", "cpp")
    q, k, v = tensors(70, heads=HEADS)
    inputs = {**documents(1, 70), **slopes(1, 70)}
    layer = torch.compile(lambda q, k, v, **inputs: attend(q, k, v, **inputs), fullgraph=True)
    got, want = layer(q, k, v, **inputs), attend(q, k, v, **inputs)
    torch.testing.assert_close(got, want)
    sources = (q, k, v, inputs["slope"])
    pairs = zip(*(torch.autograd.grad((out**2).sum(), sources) for out in (got, want)), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpp", slow("triton")])
def test_many_scalar_inputs(target: str) -> None:
    """Each is a parameter of the sets, up to a dozen: tiles that they rule out are not visited, counts are exact."""
    names = [f"end{i}" for i in range(9)]
    declared = "  ".join(f"input {name}: int[batch]" for name in names)
    places = " or ".join(f"{name} <= k < {name} + 3" for name in names)
    attend = compiled(f"attention many {{ {declared}  attend {places} }}", target)
    inputs = {name: torch.tensor([8 * i]) for i, name in enumerate(names)}
    assert attend.relation.exact
    assert attend.cost(n=70, **inputs).pairs == 70 * 27
    agree(attend, *tensors(70, 33, 2, 1), inputs=inputs)
