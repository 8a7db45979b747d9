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

from attnspec.runtime.core.request import EMPTY, Call
from attnspec.runtime.cpp.linear import Beside, Sweep, sweep


class Given(NamedTuple):
    """A call of which q and k are the features a and b, or vectors that the kernel maps to them.

    a is (batch, heads, n_q, features), b (batch, kv_heads, n, features), v (batch, kv_heads, n, dim_v). ``of_q`` is
    ``"q"`` where the call has queries, ``of_k`` ``"k"`` where it has keys, and ``""`` where it has features.
    """

    call: Call
    of_q: str = ""
    of_k: str = ""


class Sums(NamedTuple):
    """The sums, of v's dtype, and the totals of the weights (batch, heads, n_q) float32 if they are wanted."""

    out: Tensor
    total: Tensor | None


def sums(given: Given, total: bool, divide: bool) -> Sums:
    """The sums of a call. With ``divide`` they are divided by the total, which then is wanted.

    A row without keys, or whose weights add up to zero, then gives zeros.
    """
    assert total or not divide
    call, of_q, of_k = given
    of = Sweep(one="z" if total else "", divide=divide, maps=(of_q, of_k, "", ""))
    out, found = sweep(call, of, *call[:3], call.v.dtype)
    return Sums(out, found if total else None)


def gradients(
    given: Given, of: Sums, divided: bool, dout: Tensor, dtotal: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of what is q, k and v of the call, of their dtypes, from those of the sums and of the totals.

    (None: those of the totals are zero.)
    """
    (a, b, v, *_), of_q, of_k = given
    call = given.call
    to_q, to_k = a if of_q else EMPTY, b if of_k else EMPTY
    if of.total is None:
        da, _ = sweep(call, Sweep(maps=("", "", of_k, of_q)), dout, v, b, a.dtype, Beside(to_q))
        db, _ = sweep(call, Sweep(True, maps=("", "", of_q, of_k)), v, dout, a, b.dtype, Beside(to_k))
        dv, _ = sweep(call, Sweep(True, maps=(of_k, of_q, "", "")), b, a, dout, v.dtype)
        return da, db, dv
    dtotal = EMPTY if dtotal is None else dtotal.to(torch.float32).contiguous()
    extra = torch.zeros(of.total.shape)
    beside = Beside(to_q, of.out if divided else EMPTY, of.total, dtotal, extra)
    da, _ = sweep(call, Sweep(False, "y", "x", divided, ("", "", of_k, of_q)), dout, v, b, a.dtype, beside)
    beside = Beside(to_k, EMPTY, of.total, EMPTY, extra)
    db, _ = sweep(call, Sweep(True, "x", "y", divided, ("", "", of_q, of_k)), v, dout, a, b.dtype, beside)
    up = "z" if divided else ""
    dv, _ = sweep(call, Sweep(True, "", up, divided, (of_k, of_q, "", "")), b, a, dout, v.dtype, Beside(total=of.total))
    return da, db, dv
