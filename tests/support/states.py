"""Sequences in pieces, and what asserts that they give what they give whole."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import attnspec
from attnspec.runtime.attention import Attention
from tests.support.oracle import tensors

N, HEADS, KV_HEADS, BATCH, DIM = 45, 4, 2, 2, 6
Given = Mapping[str, Tensor]
REGIMES = {
    "random": lambda shape: -torch.rand(shape),
    "zeros": torch.zeros,
    "small": lambda shape: torch.full(shape, -1e-3),
    "large": lambda shape: torch.full(shape, -60.0),
    "resets": lambda shape: torch.where(torch.rand(shape) < 0.2, -torch.inf, -torch.rand(shape)),
    "mixed": lambda shape: torch.where(torch.rand(shape) < 0.3, -60.0, 0.0),
}


@dataclass
class Case:
    """A spec, after multiples of how many tokens its sequences can be cut, its inputs and what sizes their parts."""

    text: str
    cut: int = 1
    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    documents: bool = False
    offsets: tuple[Any, ...] = ()

    def given(self, regime: str = "random", n: int = N) -> dict[str, Tensor]:
        """Its inputs, for a sequence of n."""
        torch.manual_seed(5)
        found = {name: REGIMES[regime]((BATCH, HEADS, n, *more)) for name, more in self.inputs.items()}
        if "beta" in found:
            found["beta"] = torch.rand(BATCH, HEADS, n)
        if self.documents:
            found["doc"] = torch.stack([torch.arange(n) // 7 * 3, torch.arange(n) // 20])
        if self.offsets:
            found["cu"] = torch.tensor(self.offsets).clamp(max=n)
        return found


def near(name: str, got: Tensor, want: Tensor, tolerance: float) -> None:
    """Assert that two results agree, of the largest entry: what strong decay leaves is small.

    (Gradients of steps that the dense formula gives are differences of larger numbers: those below 1e-12 are noise.)
    """
    largest = float(want.detach().abs().max()) if want.numel() else 0.0
    assert got.shape == want.shape
    assert got.isfinite().all(), name
    if want.numel():
        error = float((got - want).detach().abs().max())
        assert error <= tolerance * max(largest, 1e-12 if want.dtype == torch.float64 else 1e-37), (
            f"{name}: error {error:.2e} of {largest:.2e}"
        )


def pieces(attend: Attention, vectors: Sequence[Tensor], inputs: Given, cuts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The outputs and the last state of a sequence that is cut; where a new document begins the state begins anew."""
    ends, outs, state = [0, *cuts, vectors[0].shape[2]], [], None
    for start, end in itertools.pairwise(ends):
        now = slice(start, end)
        own = {name: t[:, now] if name == "doc" else t[:, :, now] for name, t in inputs.items() if name != "cu"}
        if "cu" in inputs:
            own["cu"] = (inputs["cu"] - start).clamp(0, end - start)
        if state is not None and "doc" in inputs:
            same = inputs["doc"][:, start] == inputs["doc"][:, start - 1]
            state = state * same[:, None, None, None]
        out, state = attend(*(x[:, :, now] for x in vectors), inputs=own, state=state, q_start=start, return_state=True)
        outs.append(out)
    assert state is not None
    return torch.cat(outs, 2), state


def cut_anywhere(
    case: Case, target: str, dtype: torch.dtype, tolerance: tuple[float, float], regime: str, everywhere: bool = False
) -> None:
    """Assert that a sequence in pieces gives what it gives whole: outputs, state, all gradients.

    ``everywhere``: it is cut wherever it can be, in place of some drawn places.
    """
    attend = attnspec.compile(case.text, target=target)
    vectors = [t.detach().to(dtype).requires_grad_() for t in tensors(N, N, HEADS, KV_HEADS, BATCH, DIM, 5)]
    inputs = {
        name: t.to(dtype).requires_grad_() if t.is_floating_point() else t for name, t in case.given(regime).items()
    }
    floats = [t for t in inputs.values() if t.is_floating_point()]
    places = range(case.cut, N, case.cut)
    cuts = [sorted(random.Random(seed).sample(places, min(len(places), seed + 1))) for seed in range(4)]
    cuts = [list(places)] if everywhere else cuts
    ends = N // case.cut * case.cut  # where a state is left
    vectors = [t[:, :, :ends] for t in vectors]
    cut = {"doc": lambda t: t[:, :ends], "cu": lambda t: t.clamp(max=ends)}
    inputs = {name: cut.get(name, lambda t: t[:, :, :ends])(t) for name, t in inputs.items()}
    whole = attend(*vectors, inputs=inputs, return_state=True)
    near("plain", attend(*vectors, inputs=inputs), whole[0], tolerance[0])
    up = [torch.randn(x.shape).to(x.dtype) for x in whole]
    sources = [*vectors, *floats]
    want = torch.autograd.grad(whole, sources, up, retain_graph=True, materialize_grads=True)
    for at in cuts:
        found = pieces(attend, vectors, inputs, [c for c in at if c < ends])
        for name, x, y in zip(("out", "state"), found, whole, strict=True):
            near(name, x, y, tolerance[0])
        got = torch.autograd.grad(found, sources, up, materialize_grads=True)
        for number, (x, y) in enumerate(zip(got, want, strict=True)):
            near(f"gradient {number}", x, y, tolerance[1])
