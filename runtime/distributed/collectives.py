"""Sums and scans over ranks, by messages, always added up in one order.

Backward passes send too: where one rank has gradients for what came of these, all must ask for theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from attnspec.codegen.ranks.states import scan_rounds
from attnspec.runtime.distributed.transport import Expected, Sent, Transport

Element = tuple[Tensor, ...]


def exchanged(
    transport: Transport, sent: Sequence[tuple[int, Tensor]], expected: Sequence[tuple[int, Tensor]]
) -> list[Tensor]:
    """What comes in a step in which this is sent; ``expected`` are the ranks, and tensors as what comes from them."""
    found = [torch.empty(like.shape, dtype=like.dtype, device=like.device) for _, like in expected]
    transport.post(
        [Sent(target, t.detach().contiguous()) for target, t in sent],
        [Expected(source, t) for (source, _), t in zip(expected, found, strict=True)],
    ).wait()
    return found


def of_all(transport: Transport, t: Tensor) -> list[Tensor]:
    """The tensors of all ranks, in their order; all have one shape and dtype."""
    others = [rank for rank in range(transport.ranks) if rank != transport.rank]
    if not others:
        return [t]
    came = exchanged(transport, [(rank, t) for rank in others], [(rank, t) for rank in others])
    return [*came[: transport.rank], t, *came[transport.rank :]]


def before(
    transport: Transport,
    active: int,
    own: Element,
    compose: Callable[[Element, Element], Element],
    *,
    back: bool = False,
    next_only: bool = False,
) -> Element | None:
    """What the elements of all ranks before this one come to, or None on the first; ``back``: of those behind it.

    ``compose`` takes what is earlier and what is later, and is associative. Ranks from ``active`` on have none.
    ``next_only``: only that of the last rank before this one.
    """
    at = active - 1 - transport.rank if back else transport.rank
    flat = torch.cat([t.detach().reshape(-1) for t in own])
    found: Tensor | None = None

    def rank(place: int) -> int:
        return active - 1 - place if back else place

    def apart(whole: Tensor) -> Element:
        pieces = torch.split(whole, [t.numel() for t in own])
        return tuple(piece.view(t.shape) for piece, t in zip(pieces, own, strict=True))

    for step, (distance, first) in enumerate(scan_rounds(active)[: 1 if next_only else None]):
        sends = first <= at and at + distance < active
        comes = first <= at - distance and at < active
        of = flat if step == 0 else found
        sent = [(rank(at + distance), of)] if sends and of is not None else []
        got = exchanged(transport, sent, [(rank(at - distance), flat)] if comes else [])
        if got:
            (earlier,) = got
            if found is not None:
                joined = compose(apart(earlier), apart(found))
                earlier = torch.cat([t.reshape(-1) for t in joined])
            found = earlier
    return None if found is None else apart(found)


def combined(transport: Transport, x: Tensor, how: Callable[[Tensor], Tensor]) -> Tensor:
    """A tensor of all ranks' tensors, number by number: ``how`` takes (ranks, numbers), and gives (numbers,).

    The same bits on all ranks: each number is worked out once.
    """
    me, ranks = transport.rank, transport.ranks
    if ranks == 1 or not x.numel():
        return how(x.detach().reshape(1, -1)).view(x.shape)
    flat = x.detach().reshape(-1)
    parts = torch.nn.functional.pad(flat, (0, -flat.numel() % ranks)).view(ranks, -1)
    others = [rank for rank in range(ranks) if rank != me]
    got = exchanged(transport, [(rank, parts[rank]) for rank in others], [(rank, parts[me]) for rank in others])
    got.insert(me, parts[me])
    return torch.cat(of_all(transport, how(torch.stack(got))))[: flat.numel()].view(x.shape)


def total(x: Tensor) -> Tensor:
    """A sum of (ranks, ..) in the order of the ranks, at least in float32."""
    found = x[0].to(torch.promote_types(x.dtype, torch.float32)).clone()
    for row in x[1:]:
        found += row
    return found.to(x.dtype)


def sum_up(transport: Transport, tensors: Sequence[Tensor]) -> None:
    """Sums of tensors of one dtype over all ranks, in place."""
    if transport.ranks == 1 or not tensors:
        return
    whole = combined(transport, torch.cat([t.reshape(-1) for t in tensors]), total)
    for t, numbers in zip(tensors, torch.split(whole, [t.numel() for t in tensors]), strict=True):
        t.copy_(numbers.view(t.shape))


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, transport: Transport, x: Tensor) -> Tensor:
        ctx.transport = transport
        return combined(transport, x, total)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[None, Tensor]:
        return None, combined(ctx.transport, d, total)


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, transport: Transport, x: Tensor) -> Tensor:
        ctx.transport = transport
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[None, Tensor]:
        return None, combined(ctx.transport, d, total)


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *others: Tensor) -> Tensor:
        ctx.save_for_backward(*others)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, ...]:
        return d, *(torch.zeros_like(t) for t in ctx.saved_tensors)


class _Largest(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, transport: Transport, x: Tensor) -> Tensor:
        found = combined(transport, x, lambda of: of.amax(0))
        ctx.transport = transport
        ctx.save_for_backward(x == found)
        return found

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[None, Tensor]:
        (mine,) = ctx.saved_tensors
        many = combined(ctx.transport, torch.stack([d, mine.to(d.dtype)]), total)
        return None, torch.where(mine, many[0] / many[1], 0.0)


def summed(transport: Transport, x: Tensor) -> Tensor:
    """The sum over all ranks; a gradient of it is one of each."""
    return _Summed.apply(transport, x)  # type: ignore[no-any-return, no-untyped-call]


def shared(transport: Transport, x: Tensor) -> Tensor:
    """A tensor that all ranks hold alike: its gradient is the sum over all of theirs."""
    return _Shared.apply(transport, x)  # type: ignore[no-any-return, no-untyped-call]


def largest(transport: Transport, x: Tensor) -> Tensor:
    """The largest over all ranks; its gradient goes where it was found, evenly."""
    return _Largest.apply(transport, x)  # type: ignore[no-any-return, no-untyped-call]


def joined(x: Tensor, *others: Tensor) -> Tensor:
    """A tensor as it is, of which others get gradients of 0: so that what made them runs backward on every rank."""
    return _Joined.apply(x, *others)  # type: ignore[no-any-return, no-untyped-call]
