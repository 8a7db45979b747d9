"""Calls that go on from a state, or hand one on, of which kernels do all: states begin and end in their sums."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attnspec.codegen.layouts.residue import IDENTITY
from attnspec.runtime.core.program import Program, decode, facts, needed, plan
from attnspec.runtime.core.program import spec as spec_of
from attnspec.runtime.core.request import Call
from attnspec.runtime.linear.operators import require_plain
from attnspec.runtime.linear.sums import Given, Sums, gradients, sums
from attnspec.runtime.linear.work import bare, in_kernels_of
from attnspec.runtime.prepare.once import once
from attnspec.runtime.states.piece import Results
from attnspec.spec import contents


@functools.lru_cache(maxsize=64)
def whole(program: str, heads: int, kv_heads: int, batch: int) -> str | None:
    """The program whose kernels take vectors that are turned, and states; None where a pattern has no such kernels.

    Its sums must be the output, without decay, and its plan one pass over positions in order, the same for all heads of
    a key head, so that there is one state. Every row must see what was before, and the new state every key.
    """
    known = decode(program)
    spec = spec_of(known)
    if (
        spec.inputs
        or spec.order is not None
        or (heads != kv_heads and any("h" in contents.free(b.pred) for b in spec.branches))
    ):
        return None
    if spec.rotations or spec.normalized:
        text = str(replace(spec, rotations=(), normalized=frozenset()))
        known = Program.of(text, f"{spec.name}, turned", None, {}, known.tile, known.layout, known.target)
        facts(known)
    if not bare(known.encoded):
        return None
    classes = plan(known, needed(known, heads, kv_heads, batch)).classes
    if len(classes) != 1 or len(classes[0].passes) != 1:
        return None
    (only,) = classes[0].passes
    return known.encoded if only.layout == IDENTITY and only.times == 1 else None


@dataclass(frozen=True, eq=False)
class WholePiece:
    """A call of the program of :func:`whole`, of vectors that are turned; ``returns``: a new state is wanted."""

    program: str
    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    state: Tensor | None
    returns: bool

    def run(self) -> Results:
        """Outputs and totals of rows, and the new state (else an empty tensor)."""
        require_plain(self.program, self.q)
        out, total, state = _Through.apply(  # type: ignore[no-untyped-call]
            self.program, self.scale, self.returns, self.q, self.k, self.v, self.state
        )
        return Results(out, None if spec_of(decode(self.program)).weights.divide is None else total, state)

    def after(self) -> Tensor:
        """The new state alone."""
        assert self.returns
        return self.run().state


def _given(program: str, scale: float, q: Tensor, k: Tensor, v: Tensor, state: Tensor | None) -> Given:
    begin = None if state is None else state.to(torch.float32).contiguous()
    return Given(Call(q, k, v, (), None, None, scale, program), *in_kernels_of(program), begin=begin)


class _Through(torch.autograd.Function):
    """Output, totals (empty where nothing is divided) and the new state (empty where it is not wanted)."""

    @staticmethod
    def forward(
        ctx: Any, program: str, scale: float, returns: bool, q: Tensor, k: Tensor, v: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        weights = spec_of(decode(program)).weights
        found = sums(
            _given(program, scale, q, k, v, state), weights.divide is not None, weights.divides_by_total, leaves=returns
        )
        ctx.program, ctx.scale = program, scale
        ctx.save_for_backward(q, k, v, state, found.out, found.total)
        ctx.set_materialize_grads(False)
        none = torch.empty(0)
        return found.out, none if found.total is None else found.total, none if found.end is None else found.end

    @staticmethod
    @once
    def backward(ctx: Any, dout: Tensor | None, dtotal: Tensor | None, dend: Tensor | None) -> tuple[Any, ...]:
        q, k, v, state, out, total = ctx.saved_tensors
        if dout is None and dtotal is None and dend is None:
            return (None,) * 7
        dout = torch.zeros_like(out) if dout is None else dout
        divides = spec_of(decode(ctx.program)).weights.divides_by_total
        given, of = _given(ctx.program, ctx.scale, q, k, v, state), Sums(out, total)
        by = gradients(given, of, divides, dout, dtotal if total is not None else None, dend=dend)
        return None, None, None, by.q, by.k, by.v, None if by.begin is None else by.begin.to(state.dtype)
