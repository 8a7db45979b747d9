"""Keys and values of neighbouring positions, of which the last ones are kept: what caches are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_LEAST = 64
"""Positions that there is room for at first."""


class Piece(NamedTuple):
    """Keys and values (batch, heads, positions, dim) that stand at ``start`` and after it; views, nothing is copied."""

    start: int
    k: Tensor
    v: Tensor


class Strip:
    """Room for the positions ``start .. stop - 1`` of one sequence (without end if that is None), as they come.

    ``capacity`` is how many of the last of them are kept, in a ring: position p in slot ``(p - start) % capacity``, so
    that nothing moves when one comes and one goes. None keeps all; the room then doubles when it is full, as it does
    until a ring has its full size.
    """

    def __init__(self, start: int, stop: int | None, capacity: int | None) -> None:
        self.start, self.stop, self.capacity = start, stop, capacity
        self.next = start
        self.k: Tensor | None = None
        self.v: Tensor | None = None

    @property
    def first(self) -> int:
        """The first position that is kept."""
        return self.start if self.capacity is None else max(self.start, self.next - self.capacity)

    @property
    def bytes(self) -> int:
        """The memory that there is room in."""
        return sum(t.numel() * t.element_size() for t in (self.k, self.v) if t is not None)

    def append(self, at: int, k: Tensor, v: Tensor) -> None:
        """Keep what stands at position ``at`` and after it, as far as it belongs here; the last ended there."""
        end = at + k.shape[2] if self.stop is None else min(at + k.shape[2], self.stop)
        low = max(at, self.start, end - self.capacity if self.capacity is not None else at)
        if low >= end:
            return
        self._make_room(end - self.start, k, v)
        assert self.k is not None
        assert self.v is not None
        for position, slot, count in self._slots(low, end):
            for to, t in ((self.k, k), (self.v, v)):
                to.narrow(2, slot, count).copy_(t.narrow(2, position - at, count))
        self.next = end

    def pieces(self, below: int | None = None) -> Iterator[Piece]:
        """What is kept, in order, only of positions below a limit."""
        end = self.next if below is None else min(self.next, below)
        if self.k is None or self.v is None:
            return
        for position, slot, count in self._slots(self.first, end):
            yield Piece(position, self.k.narrow(2, slot, count), self.v.narrow(2, slot, count))

    def reset(self) -> None:
        """Forget everything; the room stays."""
        self.next = self.start

    def reorder(self, indices: Tensor) -> None:
        """Take these entries of the batch in place of those there are."""
        if self.k is not None and self.v is not None:
            with torch.inference_mode(False):
                self.k, self.v = (t.index_select(0, indices) for t in (self.k, self.v))

    def _slots(self, low: int, end: int) -> Iterator[tuple[int, int, int]]:
        """A position, its slot, and how many follow each other there: once, or twice where the ring begins anew."""
        while low < end:
            slot = (low - self.start) % self.capacity if self.capacity else low - self.start
            count = min(end - low, self.capacity - slot) if self.capacity else end - low
            yield low, slot, count
            low += count

    def _make_room(self, slots: int, k: Tensor, v: Tensor) -> None:
        """Have room for so many slots, or all. Until a ring is as large as it may be, no slot is used again."""
        there = 0 if self.k is None else self.k.shape[2]
        most = self.capacity if self.stop is None else self.stop - self.start
        room = slots if most is None else min(slots, most)
        if room <= there:
            return
        room = max(room, 2 * there, _LEAST)
        room = room if most is None else min(room, most)
        with torch.inference_mode(False):  # tensors that may be written to in any mode
            found = [t.new_empty((*t.shape[:2], room, t.shape[3])) for t in (k, v)]
        for new, old in zip(found, (self.k, self.v), strict=True):
            if old is not None:
                new[:, :, :there] = old
        self.k, self.v = found
