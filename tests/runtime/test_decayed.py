"""A decay beside softmax in kernels, against the dense meaning in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.runtime.core.arguments import CallError
from tests.support.marks import slow
from tests.support.oracle import agree, tensors
from tests.support.targets import MOSTLY_CPP, compiled

GATED = "attention a {{ input gate: float[batch, heads, n]  {}  decay gate[b, h, t] }}"
FORGETTING = GATED.format("attend causal")
N = {"cpp": 150, "triton": 50}


def gates(of: float, n: int, heads: int = 2, batch: int = 1) -> Tensor:
    """Logarithms of steps around a number, some of them 0."""
    some = torch.rand(batch, heads, n, generator=torch.Generator().manual_seed(2))
    return torch.where(some < 0.2, 0.0, (of if math.isinf(of) else of * (some + 0.5))).requires_grad_()


@pytest.mark.parametrize("target", MOSTLY_CPP)
def test_gates_of_all_sizes(target: str) -> None:
    n = N[target]
    for of in (-0.0, -1e-3, -1.0, -8.0, -60.0, -math.inf):
        agree(compiled(FORGETTING, target), *tensors(n, None, 2, 1), inputs={"gate": gates(of, n)})


def test_gates_that_are_all_large() -> None:
    attend, dense = (compiled(FORGETTING, target) for target in ("cpp", "dense"))
    q, k, v = (t.detach() for t in tensors(70, None, 2, 1))
    for of in (-1.0, -8.0, -20.0, -40.0, -60.0):  # what is left of the gradient is as large as the weight of one step
        found = []
        for f, dtype in ((attend, torch.float32), (dense, torch.float64)):
            gate = torch.full((1, 2, 70), of, dtype=dtype, requires_grad=True)
            found.append(torch.autograd.grad(f(q.to(dtype), k.to(dtype), v.to(dtype), gate=gate).sin().sum(), gate)[0])
        assert (found[0] - found[1]).norm() < 1e-5 * found[1].norm(), of


CASES = {
    "window, sink, score": "attend window(20)  sink 0.5  score softcap(s, 2.0)  scale 0.3",
    "align start": "align start  attend causal",
    "strictly before": "attend k < q - 3",
    "rotated": "attend causal  rotate rope()  normalize q",
    "mixture": "mix { branch { attend window(9) } branch times 2 { attend causal } }",
    "detached": "mix weights detached { branch { attend window(9) } branch { attend causal } }",
    "documents": "input doc: int[batch, n] sorted  attend causal and doc[q] == doc[k]  score s + 0.01 * first(doc, k)",
    "two decays": "input rate: float[heads]  attend causal  decay -rate[h]  decay -0.001 * t",
}


@pytest.mark.slow
@pytest.mark.parametrize("target", MOSTLY_CPP)
@pytest.mark.parametrize("name", [name if name == "window, sink, score" else slow(name) for name in CASES])
def test_beside_other_lines(name: str, target: str) -> None:
    attend, n = compiled(GATED.format(CASES[name]), target), N[target]
    inputs = {"gate": gates(-0.3, n, 4, 2)}
    if name == "documents":
        inputs["doc"] = (torch.arange(n) // 17)[None].repeat(2, 1)
    if name == "two decays":
        inputs["rate"] = torch.rand(4).requires_grad_()
    agree(attend, *tensors(n, None, 4, 2, 2, dim_v=24), inputs=inputs)
    agree(attend, *tensors(n, 13, 4, 2, 2), inputs=inputs)
    if name == "align start":  # then positions of queries may be past all keys
        attend = compiled("attention a { align start  attend causal  decay -0.01 * t }", target)
        agree(attend, *tensors(13, n))


@pytest.mark.slow
def test_a_branch_of_its_own() -> None:
    text = GATED.replace("  decay gate[b, h, t]", "").format(
        "mix { branch { attend window(20)  decay gate[b, h, t] } branch { attend causal  score s * 0.5 } }"
    )
    attend, dense = (attnspec.compile(text, target=target) for target in ("cpp", "dense"))
    q, k, v = (t.detach() for t in tensors(60))
    gate = gates(-0.3, 60)
    found, want = (torch.autograd.grad(f(q, k, v, gate=gate).sin().sum(), gate)[0] for f in (attend, dense))
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "dtype"),
    [("cpp", torch.bfloat16), slow("cpp", torch.float16), slow("triton", torch.float16)],  # interpreted: no bfloat16
)
def test_short_dtypes(dtype: torch.dtype, target: str) -> None:
    n = N[target]
    gate = gates(-0.5, n).detach().to(dtype).requires_grad_()
    agree(compiled(FORGETTING, target), *tensors(n, dtype=dtype), inputs={"gate": gate}, tolerance=5e-2)


@pytest.mark.slow
@pytest.mark.parametrize("target", MOSTLY_CPP)
def test_alibi_is_a_decay(target: str) -> None:
    q, k, v = tensors(N[target], heads=4)
    texts = ("alibi", "attention a { within causal  decay -alibi_slope(h, heads) }")
    results = [compiled(text, target)(q, k, v, return_lse=True, return_max=True) for text in texts]
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    grads = [torch.autograd.grad(result[0].sin().sum(), (q, k, v)) for result in results]
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("n", "least"), [(3000, -1000.0), slow(1_000_000, -1000.0)])
def test_no_digits_are_lost_where_sums_are_large(n: int, least: float) -> None:
    """The sums are up to 10^9, and steps at the end 10^-2: what is there does not depend on what was before."""
    q, k, v = (t.detach() for t in tensors(n, heads=1))
    gate = torch.full((1, 1, n), least)
    gate[..., -200:] = -torch.rand(200) / 50
    text, last = GATED.format("attend window(64)"), slice(n - 200, n)
    got = attnspec.compile(text)(q, k, v, gate=gate, return_lse=True)
    exact = (t[:, :, last].double() for t in (q, k, v))
    want = attnspec.compile(text, target="dense")(*exact, gate=gate[:, :, last].double(), return_lse=True)
    for x, y in zip(got, want, strict=True):
        assert (x[:, :, -100:] - y[:, :, -100:]).abs().max() < 5e-6


def _gradient(f: Callable[..., Tensor]) -> Tensor:
    return torch.func.grad(lambda gate: f(gate).sin().sum())(gates(-0.5, 60).detach())


@pytest.mark.slow
def test_traced_and_transformed() -> None:
    q, k, v = (t.detach() for t in tensors(60))
    attend = attnspec.compile(FORGETTING)
    dense = attnspec.compile(FORGETTING, target="dense")
    gate = gates(-0.5, 60)

    def call(gate: Tensor) -> Tensor:
        return attend(q, k, v, gate=gate)

    whole = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert torch.equal(whole(gate), call(gate))
    grads = [torch.autograd.grad(f(gate).sin().sum(), gate)[0] for f in (whole, call)]
    assert torch.equal(*grads)
    torch.testing.assert_close(_gradient(call), _gradient(lambda g: dense(q, k, v, gate=g)), rtol=1e-4, atol=1e-5)
    both = torch.stack([gate.detach(), 2 * gate.detach()])
    assert torch.equal(torch.vmap(call)(both)[1], call(2 * gate))
    ahead = attnspec.compile("attention a { decay -0.1 }")
    with pytest.raises(CallError, match="never later than"):
        torch.compile(ahead, backend="aot_eager")(q, k, v)


def test_what_kernels_do_not_serve_is_refused() -> None:
    q, k, v = (t.detach() for t in tensors(60))
    attend, gate = attnspec.compile(FORGETTING), gates(-0.5, 60).detach()
    with pytest.raises(CallError, match=r'query 0 may see key 1 .* target="dense"'):
        attnspec.compile("attention a { attend |q - k| < 9  decay -0.1 }")(q, k, v)
    with pytest.raises(CallError, match="must be 0 or negative"):
        attend(q, k, v, gate=-gate)
    with pytest.raises(CallError, match="`gate` is missing"):
        attend(q, k, v)
    with pytest.raises(CallError, match="`gate` must be a tensor, not float"):
        attend(q, k, v, gate=-1.0)  # type: ignore[arg-type]
    with pytest.raises(CallError, match="no input `decay_low`"):
        attend(q, k, v, gate=gate, decay_low=gate)
    with pytest.raises(attnspec.SpecError, match="E409"):
        attnspec.compile("attention a { order by lsh(buckets = 4, rounds = 1, seed = 0)  attend causal  decay -0.1 }")
    cache = attnspec.Cache(attend, batch=1, kv_heads=2, dim=16)
    cache.append(k, v)
    calls: tuple[Callable[[], Any], ...] = (
        lambda: attend.part(q, k, v, n=60, q_start=0, k_start=0, gate=gate),
        lambda: attend.column_sums(q, k, gate=gate),
        lambda: cache.attend(q, inputs={"gate": gate}),
    )
    for call in calls:
        with pytest.raises(attnspec.SpecError, match=r"(?s)E409.*give sums over the steps as an input"):
            call()


@pytest.mark.slow
def test_an_input_of_the_name_of_the_sums() -> None:
    text = "attention a { input decay_high: float[heads]  attend causal  score s + decay_high[h]  decay decay_high[h] }"
    agree(attnspec.compile(text), *tensors(40), inputs={"decay_high": -torch.rand(2)})
