"""The keys and values that some key heads keep: rings, fixed positions, or all there are."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from attnspec.analysis.cache_size import KeyHeads
from attnspec.runtime.caches.rows import Rows
from attnspec.runtime.caches.strip import Piece, Strip
from attnspec.runtime.core.request import Part

ROOM = 16
"""Tokens that may come at once and find room in a ring beside what their queries see."""


class Kept:
    """What neighbouring key heads keep after ``tokens`` tokens, so that no query asks for what is not there.

    The last positions lie in a ring (in all there is where that grows), fixed ones by themselves. Tokens that are more
    than a ring has room for stand beside it with those before them that their queries see, until these have attended.
    """

    def __init__(self, of: KeyHeads) -> None:
        kept = of.retention
        self.of, self.heads, self.span, self.tokens = of, of.heads, kept.span, 0
        capacity = None if kept.growing else -(-(kept.span + ROOM) // ROOM) * ROOM
        self._recent = Strip(0, None, capacity)
        fixed = () if kept.growing else kept.fixed
        self._fixed = [Strip(run.start, run.stop, None) for run in fixed]
        self._beside: Piece | None = None

    def append(self, k: Tensor, v: Tensor) -> None:
        """Keep the next keys and values (batch, these heads, positions, dim), and drop what no query sees any more."""
        at, capacity = self.tokens, self._recent.capacity
        low = max(0, at - self.span)
        self._beside = None
        if capacity is not None and at + k.shape[2] - low > capacity:
            before = [self._last(piece, low) for piece in self._recent.pieces()]
            whole = (torch.cat(parts, 2) for parts in (([*(p.k for p in before), k]), ([*(p.v for p in before), v])))
            self._beside = Piece(low, *whole)
        for strip in (self._recent, *self._fixed):
            strip.append(at, k, v)
        self.tokens += k.shape[2]

    @staticmethod
    def _last(piece: Piece, low: int) -> Piece:
        """Of a piece what does not stand before a position."""
        skip = max(0, low - piece.start)
        return Piece(piece.start + skip, piece.k[:, :, skip:], piece.v[:, :, skip:])

    @property
    def first_query(self) -> int:
        """The first position whose query, and all after it, find all keys that they see; 0 if any does."""
        first = self._recent.first if self._beside is None else self._beside.start
        return first + self.span if first else 0

    def pieces(self) -> Iterator[Piece]:
        """The keys that are there, each once, in the order of their positions."""
        first = self._recent.first if self._beside is None else self._beside.start
        for strip in self._fixed:
            yield from strip.pieces(below=first)
        if self._beside is not None:
            yield self._beside
        else:
            yield from self._recent.pieces()

    def attend(
        self, rows: Rows, q: Tensor, part: Part, scale: float | None, inputs: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp of queries that see what is there, without the sink."""
        return rows(q, self.pieces(), part, scale, inputs)

    def attended(self) -> None:
        """The queries of the last tokens have seen what they see: let go of what only they do."""
        self._beside = None

    @property
    def positions(self) -> tuple[range, ...]:
        """Where the keys stand that are there."""
        return tuple(range(piece.start, piece.start + piece.k.shape[2]) for piece in self.pieces())

    @property
    def bytes(self) -> int:
        """The memory that is held."""
        beside = () if self._beside is None else (self._beside.k, self._beside.v)
        strips = sum(strip.bytes for strip in (self._recent, *self._fixed))
        return strips + sum(t.numel() * t.element_size() for t in beside)

    def reset(self) -> None:
        """Forget everything; the room stays."""
        self._beside, self.tokens = None, 0
        for strip in (self._recent, *self._fixed):
            strip.reset()

    def reorder(self, indices: Tensor) -> None:
        """Take these entries of the batch in place of those there are."""
        for strip in (self._recent, *self._fixed):
            strip.reorder(indices)
        if self._beside is not None:
            start, k, v = self._beside
            self._beside = Piece(start, k.index_select(0, indices), v.index_select(0, indices))
