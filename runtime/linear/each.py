"""Attention in which each feature of the keys is divided by a sum of its own (``divide each``: Latte).

``out_i = sum over c of a_ic / f(total_ic) * sum over j of m_ij b_jc v_j`` with ``total_ic = sum over j of m_ij b_jc``:
the totals are sums over the pattern without queries, and then the features of queries are divided by what follows.
Features that are exponentials are never computed: relative to the largest that a row sees they are at most 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.request import Call
from attnspec.runtime.expressions.real import real, tables
from attnspec.runtime.linear.channels import attended, counted_from, negative, totals, weighed
from attnspec.runtime.linear.features import Mapped, axes
from attnspec.runtime.linear.sums import Given, sums
from attnspec.spec.spec import Spec
from attnspec.spec.weights import MASS, WeightSum

_MOST = 600.0
"""Logarithms whose exponentials float64 has, with room for sums: a divisor beyond is as one there, times a number."""


def divisors(
    spec: Spec, sizes: Sizes, inputs: Mapping[str, Tensor], total: Tensor, mass: Tensor | None = None
) -> Tensor:
    """What the line makes of totals (batch, heads, rows, 1 or features), of their shape, differentiable.

    ``mass`` (batch, heads, rows) are the sums of the features of queries, for lines that read them.
    """
    line = spec.weights.divide
    assert line is not None
    env = {**axes(sizes, 4, total.shape[1]), **tables(inputs), "row": np.arange(total.shape[2])[:, None]}
    found: Tensor = real(line, env, inputs if mass is None else {**inputs, MASS.name: mass}, total)
    return found.expand(total.shape)


@dataclass(frozen=True, eq=False)
class Divisor:
    """The divisor of each feature."""

    spec: Spec
    sizes: Sizes
    inputs: Mapping[str, Tensor]

    def divided(self, x: Tensor, total: Tensor, most: Tensor | None, seen: Tensor | None) -> Tensor:
        """``x`` (batch, heads, rows, features) over the divisors of totals; 0 where these are 0 or nothing is seen.

        With ``most`` totals are ``exp(most) * total``, and x is multiplied by ``exp(most)``. ``seen`` (batch, heads,
        rows, 1) is not needed where :attr:`plain`.
        """
        if self.plain and not torch.is_grad_enabled():  # in place: new memory takes as long as the sums
            return torch.div(x, total.masked_fill_(total == 0, torch.inf), out=total)
        if self.plain:
            return x / total.masked_fill(total == 0, torch.inf)
        assert seen is not None
        factor = None if most is None else most.clamp(-_MOST, _MOST).double().exp()
        known = torch.where(seen, total, 1.0) if factor is None else torch.where(seen, total.double() * factor, 1.0)
        inputs = {name: t.to(known.dtype) if t.is_floating_point() else t for name, t in self.inputs.items()}
        by = divisors(self.spec, self.sizes, inputs, known)
        some = seen & (by != 0)
        of = x if factor is None else x * factor
        return torch.where(some, of / torch.where(some, by, 1.0), 0.0).to(x.dtype)

    @property
    def plain(self) -> bool:
        """Whether it is the total."""
        return self.spec.weights.divide == WeightSum()


def each(
    call: Call,
    parts: list[Mapped],
    steps: Mapping[str, Any],
    divisor: Divisor,
    seen: Tensor | None,
    for_gradients: bool = False,
) -> Tensor:
    """The output, of v's dtype, differentiable. ``call`` has features of queries as q, of any width as k, and v.

    ``parts`` are the features of keys, ``steps`` what of ``Given`` says how they decay.
    ``for_gradients``: only gradients are wanted, the result is no number.
    """
    outs, first = [], 0
    for part in parts:
        a = call.q[..., first : first + part.values.shape[-1]]
        a = a if call.scale == 1 else a * call.scale
        first += part.values.shape[-1]
        own = call._replace(q=a, k=part.values, scale=1.0)
        if part.logs:
            rows = counted_from(own, part.values)
            most = None if divisor.plain else negative(rows)
            a = divisor.divided(a, totals(own, part.values, rows), most, seen)
            outs.append(attended(own, a, part.values, call.v, rows, for_gradients))
        else:
            one = part.values.new_ones(())
            rows, keys = one.expand(*a.shape[:3], 1), one.expand(*part.values.shape[:3], 1)
            total = weighed(Given(own._replace(q=rows, k=keys, v=part.values), "", "", **steps))
            a = divisor.divided(a, total, None, seen)
            outs.append(weighed(Given(own._replace(q=a), "", "", **steps), for_gradients))
    return outs[0] if len(outs) == 1 else torch.stack([out.float() for out in outs]).sum(0).to(call.v.dtype)


def seen(call: Call) -> Tensor:
    """Which rows see keys, (batch, heads, n_q, 1)."""
    ones = torch.ones(()).expand(*call.q.shape[:3], 1), torch.ones(()).expand(*call.k.shape[:3], 1)
    total = sums(Given(call._replace(q=ones[0], k=ones[1], v=ones[1], scale=1.0)), True, False).total
    assert total is not None
    return total[..., None] > 0
