"""The states before each rank: a scan of maps ``S -> F S + O``, where each rank has an F and an O of its own.

F multiplies the rows of S, or is a matrix. The gradient of what came before a rank is a scan of the same maps,
transposed, from the last rank on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attnspec.runtime.distributed.collectives import Element, before
from attnspec.runtime.distributed.transport import Transport


def states_before(
    transport: Transport, active: int, own: Tensor, factor: Tensor | None, *, next_only: bool, also: tuple[Tensor, ...]
) -> Tensor:
    """The state (.., features, values) that the maps of all ranks before this one make of zeros.

    ``factor`` is (.., features or 1, 1), or a matrix (.., features, features), or None: what was before stays as it is.
    ``next_only``: what was before a rank is not there any more after it. ``also`` are tensors that want gradients, so
    that the scan runs backward too where a rank's state depends on nothing.
    """
    return _Before.apply(transport, active, next_only, own, factor, *also)  # type: ignore[no-any-return, no-untyped-call]


def _applied(factor: Tensor, x: Tensor) -> Tensor:
    return factor @ x if factor.shape[-1] > 1 else factor * x


def _compose(earlier: Element, later: Element) -> Element:
    if len(own := later) == 1:
        return (earlier[0] + own[0],)
    (state, factor), (old, before_it) = later, earlier
    return _applied(factor, old) + state, _applied(factor, before_it)


class _Before(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, transport: Transport, active: int, next_only: bool, own: Tensor, factor: Tensor | None, *also: Tensor
    ) -> Tensor:
        with torch.no_grad():
            elements = (own,) if factor is None or next_only else (own, factor.to(own.dtype))
            found = before(transport, active, elements, _compose, next_only=next_only)
        state = torch.zeros_like(own) if found is None else found[0]
        ctx.how, ctx.count = (transport, active, next_only), len(also)
        ctx.save_for_backward(factor, state)
        return state

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        factor, state = ctx.saved_tensors
        transport, active, next_only = ctx.how
        d = d.contiguous()
        elements: Element = (d,)
        if factor is not None and not next_only:
            own = factor.to(d.dtype)
            elements = d, (own.mT.contiguous() if own.shape[-1] > 1 else own)
        found = before(transport, active, elements, _compose, back=True, next_only=next_only)
        down = torch.zeros_like(d) if found is None else found[0]
        of_factor = None
        if factor is not None:
            matrix = factor.shape[-1] > 1
            of_factor = down @ state.mT if matrix else (down * state).sum_to_size(*factor.shape)
            of_factor = torch.zeros_like(factor) if next_only else of_factor.to(factor.dtype)
        return None, None, None, down, of_factor, *[None] * ctx.count
