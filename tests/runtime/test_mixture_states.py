"""Mixtures in pieces: states of the branches that have some, the same outputs and gradients."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.runtime.core.arguments import CallError
from tests.support.linear import TOLERANCE
from tests.support.marks import slow
from tests.support.oracle import tensors
from tests.support.states import BATCH, DIM, HEADS, KV_HEADS, near

N = 48
MEMORY = """attention memory {
    input gate: float[batch, heads, n]
    mix {
        branch share 1.0 - sigmoid(gate[b, h, q]) {
            attend causal and q // 8 == k // 8
            score s - 0.1 * (q - k)  rotate rope()
        }
        branch share if q < 8 then 0.0 else sigmoid(gate[b, h, q]) {
            attend k // 8 < q // 8  linear elu(x) + 1  divide total
        }
    }
}"""
SUMMED = """attention summed {
    input gate: float[batch, heads, n]  input logit: float[heads]
    mix {
        branch { attend causal and q // 6 == k // 6  decay gate[b, h, t] }
        branch { attend k // 6 < q // 6  linear exp(x)  divide total }
        branch { attend k // 12 < q // 12  linear relu(x)  decay -0.1  divide total }
    }
    sink logit[h]
}"""
INFINI = str(attnspec.read("infini", params={"segment": 8}))
CASES = {"infini": (INFINI, "dense"), "memory": (MEMORY, "dense"), "summed": (SUMMED, "dense")}
CASES |= {"memory by kernels": (MEMORY, "cpp"), "summed by kernels": (SUMMED, "cpp")}


def inputs_of(text: str, dtype: torch.dtype) -> dict[str, Tensor]:
    torch.manual_seed(4)
    by_position = -torch.rand(BATCH, HEADS, N, dtype=dtype)
    found = {"gate": by_position if "gate: float[batch" in text else torch.randn(HEADS, dtype=dtype)}
    return found | ({"logit": torch.randn(HEADS, dtype=dtype)} if "logit" in text else {})


def pieces(attend: Any, vectors: list[Tensor], inputs: dict[str, Tensor], cuts: list[int]) -> tuple[Tensor, ...]:
    """The outputs and the last states of a sequence that is cut."""
    outs, state = [], None
    for start, end in itertools.pairwise([0, *cuts, N]):
        now = slice(start, end)
        own = {name: t[:, :, now] if t.dim() == 3 else t for name, t in inputs.items()}
        out, state = attend(*(x[:, :, now] for x in vectors), inputs=own, state=state, q_start=start, return_state=True)
        outs.append(out)
    assert state is not None
    assert len(state) == len(attend.branches)
    return torch.cat(outs, 2), *(t for t in state if t is not None)


@pytest.mark.parametrize("name", [name if name in ("infini", "memory") else slow(name) for name in CASES])
def test_mixtures_in_pieces(name: str) -> None:
    text, target = CASES[name]
    dtype = torch.float64 if target == "dense" else torch.float32
    tolerance = (1e-11, 1e-11) if target == "dense" else TOLERANCE[dtype]
    attend = attnspec.compile(text, target=target)
    vectors = [t.detach().to(dtype).requires_grad_() for t in tensors(N, N, HEADS, KV_HEADS, BATCH, DIM, 5)]
    inputs = {name: t.requires_grad_() for name, t in inputs_of(text, dtype).items()}
    sources, whole = [*vectors, *inputs.values()], pieces(attend, vectors, inputs, [])
    near("plain", attend(*vectors, inputs=inputs), whole[0], tolerance[0])
    up = [torch.randn(x.shape).to(x.dtype) for x in whole]
    want = torch.autograd.grad(whole, sources, up, retain_graph=True, materialize_grads=True)
    for cuts in ([24], [12, 36] if "summed" in name else [8, 32]):
        found = pieces(attend, vectors, inputs, cuts)
        for x, y in zip(found, whole, strict=True):
            near("result", x, y, tolerance[0])
        for number, (x, y) in enumerate(
            zip(torch.autograd.grad(found, sources, up, materialize_grads=True), want, strict=True)
        ):
            near(f"gradient {number}", x, y, tolerance[1])


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("lolcats", {}, r"1 state and 63 keys|63 keys .*branch 0 of the mixture"),
        ("longnet", {}, "attnspec.Cache"),
        (INFINI, {"state": (None, torch.zeros(1, 2, 16, 17))}, "shares depend on positions"),
        (INFINI, {"state": torch.zeros(1, 2, 16, 17), "q_start": 8}, "a tuple of the states of the 2 branches"),
        (INFINI, {"state": (torch.zeros(1, 2, 16, 17), None), "q_start": 8}, "branch 0 is softmax"),
        (INFINI, {"state": (None, None), "q_start": 4}, "multiples of 8"),
        (MEMORY.replace("0.1 * (q - k)", "0.1 * q"), {}, "more than how far a key is"),
        (MEMORY.replace("rope()", "xpos()"), {}, "vectors turn by more"),
        (MEMORY.replace("gate[b, h, q]", "gate[b, h, q - 1]"), {}, "another token's entry"),
        (MEMORY.replace("q < 8", "n < 8"), {}, "the call's length"),
        (MEMORY.replace(" and q // 8 == k // 8", ""), {}, "keys of its softmax are seen after every cut"),
    ],
)
def test_mixtures_that_cannot_be_cut_say_why(text: str, arguments: dict[str, Any], message: str) -> None:
    attend, (q, k, v) = attnspec.compile(text, target="dense"), tensors(16)
    given = {"gate": torch.zeros(1, 2, 16) if "gate: float[batch" in text else torch.zeros(2)} if "gate" in text else {}
    with pytest.raises(CallError, match=message):
        attend(q, k, v, return_state=True, inputs=given, **arguments)
