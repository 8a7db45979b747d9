"""The delta rule on the CPU: compiled patterns against their dense meaning in float64."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.runtime.core.arguments import CallError
from tests.support.linear import TOLERANCE, as_dense
from tests.support.marks import slow
from tests.support.oracle import close, tensors

N, BATCH, HEADS = 150, 2, 4
BETA = """attention a {{
    input beta: float[batch, heads, n]
    {}
    normalize q
    normalize k
    {}
    delta beta[b, h, k]
}}"""
CASES: dict[str, str] = {
    "delta": "delta",
    "gated": "gated_delta",
    "of key heads": "attention a { attend causal  normalize k  linear x  delta 0.7 }",
    "divided": BETA.format("attend causal", "linear elu(x) + 1  divide total"),
    "by another divisor": BETA.format("attend causal", "linear elu(x) + 1  divide total + 1.0 + mass"),
    "features of whole vectors": BETA.format("attend causal", "linear softmax(x)"),
    "window": BETA.format("attend window(100)", "linear x"),
    "short window": BETA.format("attend window(30)", "linear x"),
    "segments": BETA.format("attend causal and segment(100)", "linear x"),
    "documents": BETA.format(
        "input doc: int[batch, n] sorted  attend causal and doc[q] == doc[k]", "linear x  decay -0.1"
    ),
    "dilated": BETA.format("attend dilated(30, 4) and k <= q", "linear x  decay -0.01"),
    "sinks": BETA.format("attend causal and (k < 8 or q - k < 50)", "linear x"),
    "heads": BETA.format("attend if h % 2 == 0 then window(50) else k == q", "linear x"),
    "memory": "attention a { attend k // 32 < q // 32  linear elu(x) + 1  divide total  delta 1.0 }",
    "memory between tiles": "attention a { attend k // 50 < q // 50  linear elu(x) + 1  divide total  delta 0.5 }",
    "infini": "attention a { include infini(segment = 40) }",
}


def inputs_of(text: str, n: int) -> dict[str, Tensor]:
    """What a case reads."""
    torch.manual_seed(0)
    found: dict[str, Tensor] = {}
    for declared in attnspec.compile(text, target="dense").spec.inputs:
        shape = (HEADS,) if len(declared.sizes) == 1 else (BATCH, HEADS, n)
        real = {"beta": torch.rand(shape), "gate": -torch.rand(shape)}
        found[declared.name] = real.get(declared.name, torch.arange(n)[None].repeat(BATCH, 1) // 67)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_forward_and_all_gradients(name: str) -> None:
    as_dense(CASES[name], *tensors(N, N, HEADS, 2, BATCH, dim_v=24), inputs=inputs_of(CASES[name], N))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "n_q", "dim", "dim_v"), [(331, 331, 17, 5), (90, 33, 16, 24), (1, 1, 16, 24), (64, 0, 16, 24)]
)
def test_lengths(n: int, n_q: int, dim: int, dim_v: int) -> None:
    as_dense("delta", *tensors(n, n_q, HEADS, 2, BATCH, dim, dim_v), inputs=inputs_of("delta", n))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_types(dtype: torch.dtype) -> None:
    as_dense("delta", *tensors(N, N, HEADS, 2, BATCH, dtype=dtype), inputs=inputs_of("delta", N))


@pytest.mark.parametrize("gate", ["mixed", *map(slow, ("none", "strong", "resets"))])
def test_however_strong_gates_are(gate: str) -> None:
    """Keys of length one that all look alike, which are written whole: what a triangular system is hardest for."""
    torch.manual_seed(0)
    some = torch.rand(1, 2, 500)
    gates = {"none": 0 * some, "strong": -60 - some, "resets": torch.where(some < 0.05, float("-inf"), -0.1)}
    gates["mixed"] = torch.where(some < 0.3, -60.0, 0.0)
    q, k, v = (t.detach() for t in tensors(500, dim_v=24))
    k = k + 3
    given = {"beta": torch.ones(1, 2, 500), "gate": gates[gate]}
    got = attnspec.compile("gated_delta", target="cpp")(q, k, v, inputs=given)
    want = attnspec.compile("gated_delta", target="dense")(*(t.double() for t in (q, k, v)), inputs=given)
    close("out", got, want, TOLERANCE[torch.float32][0])


@pytest.mark.slow
def test_values_that_are_no_numbers_reach_those_that_see_them() -> None:
    """Of one document none gets into another, nor into its gradients."""
    text = CASES["documents"]
    q, k, v = tensors(N, N, HEADS, HEADS, BATCH, dim_v=24)
    given: Mapping[str, Tensor] = inputs_of(text, N)
    given["beta"].requires_grad_()
    spoilt = v.detach().clone()
    spoilt[:, :, 70] = torch.nan
    out = attnspec.compile(text, target="cpp")(q, k, spoilt, inputs=given)
    want = attnspec.compile(text, target="dense")(q.double(), k.double(), v.double(), inputs=given)
    other = given["doc"][0] != given["doc"][0, 70]
    assert out[:, :, 70].isnan().all()
    assert out[:, :, other].isfinite().all()
    close("others", out[:, :, other], want[:, :, other], TOLERANCE[torch.float32][0])
    for grad in torch.autograd.grad(out[:, :, other].sum(), (q, k, given["beta"])):
        assert grad[:, :, other].isfinite().all()


def test_what_is_refused() -> None:
    q, k, v = tensors(20)
    with pytest.raises(attnspec.SpecError, match=r"(?s)E410.*query 0 may see key 1"):
        attnspec.compile("attention a { linear x  delta 1.0 }")(q, k, v)
    with pytest.raises(attnspec.SpecError, match="E409"):
        attnspec.compile("attention a { attend causal  linear exp(x)  divide each total  delta 1.0 }")
    attend = attnspec.compile("attention a { input w: float[batch, heads, n_q]  attend causal  linear x  delta 1.0 }")
    with pytest.raises(CallError, match="takes keys as queries"):
        attend(q[:, :, :4], k, v, w=torch.rand(1, 2, 4))
