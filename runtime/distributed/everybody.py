"""What all ranks tell all others, by messages of any transport."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attnspec.runtime.distributed.transport import Expected, Sent, Transport


def gathered(transport: Transport, t: Tensor) -> list[Tensor]:
    """The tensors of all ranks, in their order; all have one shape and dtype."""
    others = [rank for rank in range(transport.ranks) if rank != transport.rank]
    t = t.contiguous()
    if not others:
        return [t]
    form = tuple(t.shape), t.dtype, t.device
    came = transport.post([Sent(rank, t) for rank in others], [Expected(rank, *form) for rank in others]).wait()
    return [*came[: transport.rank], t, *came[transport.rank :]]


def summed(transport: Transport, tensors: Sequence[Tensor]) -> None:
    """Sums of float32 tensors over all ranks, in place: added in the order of ranks, whenever they arrive.

    Each rank adds up one part of all numbers, and tells the others.
    """
    if transport.ranks == 1 or not tensors:
        return
    numbers = torch.cat([t.reshape(-1) for t in tensors])
    size = -(-numbers.numel() // transport.ranks)
    pieces = torch.cat([numbers, numbers.new_zeros(size * transport.ranks - numbers.numel())]).view(-1, size)
    others = [rank for rank in range(transport.ranks) if rank != transport.rank]
    sent = [Sent(rank, pieces[rank]) for rank in others]
    came = transport.post(
        sent, [Expected(rank, (size,), t.dtype, t.device) for rank in others for t in [numbers]]
    ).wait()
    total = torch.zeros_like(pieces[transport.rank])
    for t in (*came[: transport.rank], pieces[transport.rank], *came[transport.rank :]):
        total += t
    whole = torch.cat(gathered(transport, total))
    start = 0
    for t in tensors:
        t.copy_(whole[start : start + t.numel()].view(t.shape))
        start += t.numel()
