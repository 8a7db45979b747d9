"""Calls of which kernels do all: they make features by themselves, and their sums, divided or not, are the output.

So it is with patterns without inputs. What runs is kept by the forms of tensors: to look for one kernel after another
takes as long as a short call.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attnspec.runtime.core.program import decode, facts
from attnspec.runtime.core.program import spec as spec_of
from attnspec.runtime.core.request import EMPTY, Call
from attnspec.runtime.cpp.linear import ARRAYS, NOTHING, Ready, Typed, ready, typed
from attnspec.runtime.linear.sums import backward_sweeps, forward_sweep
from attnspec.runtime.linear.work import bare, in_kernels_of

_NO_ARRAYS = (0,) * (len(ARRAYS) - 3)
"""In place of those of decay and states."""


@dataclass(frozen=True, eq=False)
class Plain:
    """A pattern of such calls, with its own scale.

    ``total``: rows have totals, by which their sums are divided if it ``divides``.
    """

    program: str
    scale: float
    total: bool
    divides: bool

    @classmethod
    @functools.lru_cache(maxsize=64)
    def of(cls, program: str) -> Plain | None:
        """Of a program, or None where there is more to do."""
        known, spec = facts(decode(program)), spec_of(decode(program))
        if spec.inputs or spec.axes or spec.order is not None or known.arguments or known.lists or not bare(program):
            return None
        scale = 1.0 if spec.scale is None else float(spec.scale)
        return cls(program, scale, spec.weights.divide is not None, spec.weights.divides_by_total)

    def forward(self, tensors: Sequence[Tensor], scale: float | None, totals: bool) -> tuple[Tensor, Tensor] | None:
        """The output, of v's dtype, and totals (batch, heads, n_q), float32; empty where there are none, or not wanted.

        ``tensors`` are q, k and v. None where several passes add up to the output, and more is to be done.
        """
        q, k, v = tensors
        made = _forward(self, typed(q), typed(k), typed(v))
        if made.carry:
            return None
        kept = totals and self.total
        total = torch.empty(q.shape[:3]) if kept else v.new_empty(0, dtype=torch.float32)
        out = made.run(self._call(tensors, scale), (q, k, v, *[EMPTY] * 5), [total.data_ptr(), 0, 0, *_NO_ARRAYS])
        return out, total

    def backward(
        self,
        tensors: Sequence[Tensor],
        scale: float | None,
        out: Tensor,
        total: Tensor,
        dout: Tensor,
        dtotal: Tensor | None,
    ) -> list[Tensor]:
        """The gradients of q, k and v from those of the output and of totals."""
        q, k, v = tensors
        to_q, to_k, to_v = _backward(self, typed(q), typed(k), typed(v), typed(out), typed(dout))
        arrays: list[int] = [0] * len(ARRAYS)
        if self.total:
            dtotal = EMPTY if dtotal is None else dtotal.to(torch.float32).contiguous()
            extra = torch.zeros(q.shape[:3])
            arrays[:3] = total.data_ptr(), dtotal.data_ptr(), extra.data_ptr()
        call, none = self._call(tensors, scale), (EMPTY,) * 3
        dv = to_v.run(call, (k, q, dout, EMPTY, EMPTY, *none), arrays)
        dq = to_q.run(call, (dout, v, k, q, out if self.divides else EMPTY, *none), arrays)
        dk = to_k.run(call, (v, dout, q, k, EMPTY, *none), arrays)
        return [d if d.dtype == t.dtype else d.to(t.dtype) for d, t in ((dq, q), (dk, k), (dv, v))]

    def _call(self, tensors: Sequence[Tensor], scale: float | None) -> Call:
        q, k, v = tensors
        return Call(q, k, v, (), None, None, self.scale if scale is None else float(scale), self.program)


@functools.lru_cache(maxsize=256)
def _forward(of: Plain, q: Typed, k: Typed, v: Typed) -> Ready:
    sweep = forward_sweep(*in_kernels_of(of.program), False, False, of.divides, of.total, (False, False))
    return ready(of.program, sweep, v[0], (0, 0), q, k, v, *[NOTHING] * 5)


@functools.lru_cache(maxsize=256)
def _backward(of: Plain, q: Typed, k: Typed, v: Typed, out: Typed, dout: Typed) -> tuple[Ready, Ready, Ready]:
    of_q, of_k = in_kernels_of(of.program)
    to_q, to_k, to_v = backward_sweeps(of_q, of_k, False, False, of.divides, of.total)
    none = (NOTHING,) * 3
    sources, result = (q if of_q else NOTHING, k if of_k else NOTHING), out if of.divides else NOTHING
    return (
        ready(of.program, to_q, q[0], (0, 0), dout, v, k, sources[0], result, *none),
        ready(of.program, to_k, k[0], (0, 0), v, dout, q, sources[1], NOTHING, *none),
        ready(of.program, to_v, v[0], (0, 0), k, q, dout, NOTHING, NOTHING, *none),
    )
