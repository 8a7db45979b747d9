"""Attention that each feature has by itself: sums over keys weighed by ``exp(logs_jc + rows_ic)``, and gradients.

``logs`` (batch, kv_heads, n, features) are logarithms of the features of keys, float32, of any size; ``rows`` (batch,
heads, n_q, features) minus the largest that a row sees of each, and minus infinity where it sees none, from which the
other sums count: no weight is above 1. They are constant for gradients: what the sums are put together to does not
depend on them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attnspec.runtime.core.request import Call
from attnspec.runtime.cpp.linear import Beside, Sweep, sweep
from attnspec.runtime.linear.sums import Given, Sums, gradients, sums
from attnspec.runtime.prepare.once import once


def counted_from(call: Call, logs: Tensor) -> Tensor:
    """Minus the largest logarithm that each row sees, of each feature; q of a call says only how many there are."""
    ones = logs.new_ones(())
    rows, keys = ones.expand(*call.q.shape[:3], 1), ones.expand(*logs.shape[:3], 1)
    logs = logs.detach()
    return sweep(call, Sweep(logs="max"), rows, keys, logs, torch.float32, Beside(there=logs))[0]


def totals(call: Call, logs: Tensor, rows: Tensor) -> Tensor:
    """``sum over j of m_ij exp(logs_jc + rows_ic)``, (batch, heads, n_q, features), differentiable in ``logs``."""
    return _Totals.apply(call, logs, rows)  # type: ignore[no-any-return, no-untyped-call]


def attended(call: Call, a: Tensor, logs: Tensor, v: Tensor, rows: Tensor, for_gradients: bool = False) -> Tensor:
    """``sum over c of a_ic sum over j of m_ij exp(logs_jc + rows_ic) v_j``, of v's dtype.

    a is (batch, heads, n_q, features), float32, v (batch, kv_heads, n, dim_v); differentiable in these and in ``logs``.
    ``for_gradients``: only gradients are wanted, the result is no number.
    """
    return _Attended.apply(call, a, logs, v, rows, for_gradients)  # type: ignore[no-any-return, no-untyped-call]


def weighed(given: Given, for_gradients: bool = False) -> Tensor:
    """The sums of a call without totals, differentiable in features, values and sums of steps."""
    assert given.channels is None
    call, steps = given.call, (given.decay_q, given.decay_k)
    return _Weighed.apply(call, for_gradients, *call[:3], *steps)  # type: ignore[no-any-return, no-untyped-call]


def negative(rows: Tensor) -> Tensor:
    """The largest of what rows count from, or the other way round: minus infinity of minus infinity."""
    return (-rows).masked_fill(rows.isneginf(), -torch.inf)


def _sum(
    call: Call, of: Sweep, x: Tensor, y: Tensor, z: Tensor, here: Tensor, there: Tensor, dtype: torch.dtype
) -> Tensor:
    return sweep(call, of, x, y, z, dtype, Beside(here=here, there=there))[0]


def _of_numbers(found: Tensor, logs: Tensor) -> Tensor:
    """The gradients of logarithms: none of what is no number, as keys that no row sees may be."""
    return found.masked_fill_(~(logs < torch.inf), 0.0)


def _ones(like: Tensor, features: int) -> Tensor:
    return torch.ones(()).expand(*like.shape[:3], features)


class _Totals(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, logs: Tensor, rows: Tensor) -> Tensor:
        """The totals."""
        ctx.call = call
        ctx.save_for_backward(logs, rows)
        of, real = Sweep(logs="z"), torch.float32
        return _sum(call, of, _ones(rows, 1), _ones(logs, 1), _ones(logs, logs.shape[3]), rows, logs, real)

    @staticmethod
    @once
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        """Of logarithms."""
        logs, rows = ctx.saved_tensors
        of, real = Sweep(True, logs="z"), torch.float32
        found = _sum(ctx.call, of, _ones(logs, 1), _ones(rows, 1), d, logs, rows, real)
        return None, _of_numbers(found, logs), None


class _Attended(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, a: Tensor, logs: Tensor, v: Tensor, rows: Tensor, for_gradients: bool) -> Tensor:
        """The output."""
        ctx.call = call
        ctx.save_for_backward(a, logs, v, rows)
        if for_gradients:
            return _nothing(a, v)
        return _sum(call, Sweep(logs="xy"), a, _ones(logs, logs.shape[3]), v, rows, logs, v.dtype)

    @staticmethod
    @once
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        """Of features, logarithms and values."""
        a, logs, v, rows = ctx.saved_tensors
        call, real, ones = ctx.call, torch.float32, _ones(logs, logs.shape[3])
        _, of_a, of_logs, of_v, *_ = ctx.needs_input_grad
        da = _sum(call, Sweep(logs="z"), d, v, ones, rows, logs, real) if of_a else None
        dl = _of_numbers(_sum(call, Sweep(True, logs="z"), v, d, a, logs, rows, real), logs) if of_logs else None
        dv = _sum(call, Sweep(True, logs="xy"), ones, a, d, logs, rows, v.dtype) if of_v else None
        return None, da, dl, dv, None, None


class _Weighed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, for_gradients: bool, *tensors: Tensor | None) -> Tensor:
        """The sums."""
        ctx.call = call
        ctx.save_for_backward(*tensors)
        if for_gradients:
            return _nothing(call.q, call.v)
        return sums(_given(call, *tensors), False, False).out

    @staticmethod
    @once
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        """Of features, values and sums of steps."""
        a, b, v, *steps = ctx.saved_tensors
        of_v_alone = not any(ctx.needs_input_grad[i] for i in (2, 3, 5, 6))
        found = gradients(_given(ctx.call, a, b, v, *steps), Sums(d, None), False, d, None, of_v_alone)
        return None, None, *found[:3], *(found.steps or (None, None))


def _nothing(a: Tensor, v: Tensor) -> Tensor:
    """In place of an output of which only gradients are wanted."""
    return v.new_zeros(()).expand(*a.shape[:3], v.shape[3])


def _given(call: Call, a: Any, b: Any, v: Any, *steps: Any) -> Given:
    return Given(call._replace(q=a, k=b, v=v), "", "", *steps).cut()
