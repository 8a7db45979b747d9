"""States that go from rank to rank, and gradients that come back the same way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attnspec.runtime.distributed.collectives import exchanged
from attnspec.runtime.distributed.transport import Transport


def taken_over(transport: Transport, active: int, like: Tensor, also: tuple[Tensor, ...]) -> Tensor:
    """The state of the rank before this one, of a shape like another tensor's; zeros on the first.

    ``also`` are tensors that want gradients: where one does, the gradient of the state is sent back.
    """
    return _TakenOver.apply(transport, active, like, *also)  # type: ignore[no-any-return, no-untyped-call]


def passed_on(transport: Transport, active: int, state: Tensor, *results: Tensor) -> list[Tensor]:
    """Results as they are, once the state is sent to the next rank; whose gradient comes back before theirs go on."""
    return list(_PassedOn.apply(transport, active, state, *results))  # type: ignore[no-untyped-call]


def from_last(transport: Transport, active: int, state: Tensor) -> Tensor:
    """The last rank's tensor, on all of them; those of the others only say of what shape it is."""
    return _FromLast.apply(transport, active, state)  # type: ignore[no-any-return, no-untyped-call]


def _quiet(transport: Transport, steps: int) -> None:
    for _ in range(steps):
        exchanged(transport, [], [])


class _TakenOver(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, transport: Transport, active: int, like: Tensor, *also: Tensor) -> Tensor:
        me = transport.rank
        ctx.how, ctx.count = (transport, active), len(also)
        if not 0 < me < active:
            _quiet(transport, 0 if me == 0 else active - 1)
            return torch.zeros_like(like)
        _quiet(transport, me - 1)
        (state,) = exchanged(transport, [], [(me - 1, like)])
        return state

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        (transport, active), none = ctx.how, [None] * (3 + ctx.count)
        me = transport.rank
        if 0 < me < active:
            exchanged(transport, [(me - 1, d)], [])
            _quiet(transport, me - 1)
        return (*none,)


class _PassedOn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, transport: Transport, active: int, state: Tensor, *results: Tensor) -> tuple[Tensor, ...]:
        me = transport.rank
        ctx.how = transport, active
        ctx.save_for_backward(state)
        if me < active - 1:
            exchanged(transport, [(me + 1, state)], [])
            _quiet(transport, active - 2 - me)
        return tuple(t.view_as(t) for t in results)

    @staticmethod
    def backward(ctx: Any, *d: Tensor) -> tuple[Tensor | None, ...]:
        (transport, active), (state,) = ctx.how, ctx.saved_tensors
        me = transport.rank
        down = torch.zeros_like(state)
        if me < active - 1:
            _quiet(transport, active - 2 - me)
            (down,) = exchanged(transport, [], [(me + 1, state)])
        elif me >= active:
            _quiet(transport, max(0, active - 1))
        return None, None, down, *d


class _FromLast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, transport: Transport, active: int, state: Tensor) -> Tensor:
        me, last = transport.rank, active - 1
        ctx.how = transport, last
        if me == last:
            exchanged(transport, [(rank, state) for rank in range(transport.ranks) if rank != me], [])
            return state.clone()
        (found,) = exchanged(transport, [], [(last, state)])
        return found

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[None, None, Tensor]:
        transport, last = ctx.how
        me = transport.rank
        if me != last:
            exchanged(transport, [(last, d)], [])
            return None, None, torch.zeros_like(d)
        others = [rank for rank in range(transport.ranks) if rank != me]
        got = exchanged(transport, [], [(rank, d) for rank in others])
        found = d.clone()
        for each in got:
            found += each
        return None, None, found
