"""Sums of values weighed by products of features, over the pairs of a pattern, and their gradients.

``out_i = scale * sum over j of m_ij (a_i . b_j) v_j``, where the pattern has pair (i, j) m_ij times, in a time that is
linear in the length if the pattern lets it. Division by ``total_i``, the sum of the weights, may be part of it.

Gradients are sums of the same form: with ``du = dout / total`` and ``dtotal = -(du . out)`` those of features
``[du, dtotal]`` of queries and ``[v, 1]`` of keys, over the pattern or its transpose.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from attnspec.runtime.core.request import Call
from attnspec.runtime.cpp.linear import Sweep, sweep


class Sums(NamedTuple):
    """The sums, of v's dtype, and the totals of the weights (batch, heads, n_q) float32 if they are wanted."""

    out: Tensor
    total: Tensor | None


def sums(call: Call, total: bool, divide: bool) -> Sums:
    """The sums of a call, of which q and k are the features a and b; v is (batch, kv_heads, n, dim_v).

    a is (batch, heads, n_q, features) and b (batch, kv_heads, n, features). With ``divide`` they are divided by the
    total, which then is wanted: a row without keys, or whose weights add up to zero, gives zeros.
    """
    assert total or not divide
    out, found = sweep(call, Sweep(one="z" if total else "", divide=divide), *call[:3], call.v.dtype)
    return Sums(out, found if total else None)


def gradients(
    call: Call, of: Sums, divided: bool, dout: Tensor, dtotal: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of a, b and v, of their dtypes, from those of the sums and of the totals (None: there are none)."""
    a, b, v = call[:3]
    if of.total is None:
        by_query, du = dout, dout
    else:
        by_query = dout.new_empty((*dout.shape[:3], dout.shape[3] + 1), dtype=torch.float32)
        du, last = by_query[..., :-1], by_query[..., -1]
        du.copy_(dout)
        last.zero_()
        if divided:
            du *= torch.where(of.total == 0, 0.0, 1 / of.total)[..., None]
            torch.sum(du * of.out, -1, out=last)
            last.neg_()
        if dtotal is not None:
            last += dtotal
    with_ones = of.total is not None
    da, _ = sweep(call, Sweep(one="y" if with_ones else ""), by_query, v, b, a.dtype)
    db, _ = sweep(call, Sweep(keys=True, one="x" if with_ones else ""), v, by_query, a, b.dtype)
    dv, _ = sweep(call, Sweep(keys=True), b, a, du, v.dtype)
    return da, db, dv
