"""The last positions of the ranks before this one: their rows of tensors by position, and gradients back to them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from attnspec.codegen.ranks.states import StateExchange
from attnspec.runtime.distributed.collectives import exchanged
from attnspec.runtime.distributed.transport import Transport


def with_halo(
    transport: Transport, exchange: StateExchange, tensors: Sequence[Tensor], axes: Sequence[int]
) -> list[Tensor]:
    """Tensors of a rank's positions, with those of the positions before that it needs in front of them.

    ``axes``: along which dimensions the positions lie. All travel in one message from each rank.
    """
    if not exchange.lag:
        return list(tensors)
    found = _Halo.apply(transport, exchange, tuple(axes), *tensors)  # type: ignore[no-untyped-call]
    return [torch.cat([front, own], axis) for front, own, axis in zip(found, tensors, axes, strict=True)]


def _bytes(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.contiguous().reshape(-1).view(torch.uint8) for t in tensors])


def _apart(held: Tensor, like: Sequence[Tensor], axes: Sequence[int], count: int) -> list[Tensor]:
    """Tensors like others, but of so many positions, out of their bytes."""
    found, at = [], 0
    for t, axis in zip(like, axes, strict=True):
        shape = (*t.shape[:axis], count, *t.shape[axis + 1 :])
        end = at + prod(shape) * t.element_size()
        found.append(held[at:end].clone().view(t.dtype).view(shape))
        at = end
    return found


def _size(like: Sequence[Tensor], axes: Sequence[int], count: int) -> int:
    """The bytes of so many positions."""
    return sum(
        prod((*t.shape[:axis], count, *t.shape[axis + 1 :])) * t.element_size()
        for t, axis in zip(like, axes, strict=True)
    )


class _Halo(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, transport: Transport, exchange: StateExchange, axes: tuple[int, ...], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        me, start = transport.rank, exchange.span(transport.rank)[0]
        gives = [
            (target, a - start, b - a)
            for target in range(me + 1, exchange.active)
            for source, a, b in exchange.keys(target)
            if source == me
        ]
        takes = [(source, a - exchange.first(me), b - a) for source, a, b in exchange.keys(me)]
        sent = []
        for target, at, count in gives:
            rows = [t.detach().narrow(axis, at, count) for t, axis in zip(tensors, axes, strict=True)]
            sent.append((target, _bytes(rows)))
        empty = tensors[0].new_empty(0, dtype=torch.uint8)
        got = exchanged(
            transport, sent, [(source, empty.new_empty(_size(tensors, axes, count))) for source, _, count in takes]
        )
        pieces = [_apart(held, tensors, axes, count) for held, (_, _, count) in zip(got, takes, strict=True)]
        found = tuple(
            torch.cat([t.narrow(axis, 0, 0), *(piece[number] for piece in pieces)], axis)
            for number, (t, axis) in enumerate(zip(tensors, axes, strict=True))
        )
        ctx.transport, ctx.axes, ctx.gives, ctx.takes = transport, axes, gives, takes
        ctx.reals = [number for number, t in enumerate(tensors) if t.is_floating_point()]
        ctx.shapes = [tuple(t.shape) for t in tensors]
        ctx.mark_non_differentiable(*(t for t in found if not t.is_floating_point()))
        return found

    @staticmethod
    def backward(ctx: Any, *d: Tensor) -> tuple[Tensor | None, ...]:
        reals = [d[number] for number in ctx.reals]
        axes = [ctx.axes[number] for number in ctx.reals]
        sent = []
        for source, at, count in ctx.takes:
            sent.append((source, _bytes([t.narrow(axis, at, count) for t, axis in zip(reals, axes, strict=True)])))
        empty = reals[0].new_empty(0, dtype=torch.uint8)
        got = exchanged(
            ctx.transport,
            sent,
            [(target, empty.new_empty(_size(reals, axes, count))) for target, _, count in ctx.gives],
        )
        found: list[Tensor | None] = [None] * len(d)
        for number, t in zip(ctx.reals, reals, strict=True):
            found[number] = t.new_zeros(ctx.shapes[number])
        for held, (_, at, count) in zip(got, ctx.gives, strict=True):
            for number, axis, piece in zip(ctx.reals, axes, _apart(held, reals, axes, count), strict=True):
                whole = found[number]
                assert whole is not None
                whole.narrow(axis, at, count).add_(piece)
        return None, None, None, *found
