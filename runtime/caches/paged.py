"""The keys and values that key heads keep where some stay for ever and those between them do not: in pages.

What stays lies in runs, 32 of every 128 positions, say; a page is as long as divides them all, so that each is kept or
dropped whole. Pages that are dropped are used again; the kernel finds those that are there by a table.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attnspec.analysis.cache_size import KeyHeads
from attnspec.runtime.caches.rows import Rows
from attnspec.runtime.core.request import Part
from attnspec.runtime.paged_operator import attend_paged
from attnspec.runtime.prepare.apart import turned_queries

_NONE = -1


class InPages:
    """As :class:`attnspec.runtime.caches.kept.Kept`, for all key heads together."""

    def __init__(self, of: KeyHeads) -> None:
        size = of.retention.page
        assert size is not None
        self.of, self.heads, self.span, self.tokens = of, of.heads, of.retention.span, 0
        self._size, self._looked, self._free = size, 0, list[int]()
        self._slots: list[int] = []  # of each page of the sequence; a slot has a page for each entry of the batch
        self._k: Tensor | None = None  # (slots, batch, heads, page, dim)
        self._v: Tensor | None = None

    def append(self, k: Tensor, v: Tensor) -> None:
        """Drop the pages that no query sees any more, and keep the next keys and values."""
        at, size = self.tokens, self._size
        while (self._looked + 1) * size <= at - self.span:
            if not self._stays(self._looked):
                self._free.append(self._slots[self._looked])
                self._slots[self._looked] = _NONE
            self._looked += 1
        end = at + k.shape[2]
        self._make_room(-(-end // size) - len(self._slots), k, v)
        assert self._k is not None
        assert self._v is not None
        for page in range(at // size, -(-end // size)):
            if page == len(self._slots):
                self._slots.append(self._free.pop())
            low, high = max(at, page * size), min(end, (page + 1) * size)
            rows = slice(low - page * size, high - page * size)
            self._k[self._slots[page], :, :, rows] = k[:, :, low - at : high - at]
            self._v[self._slots[page], :, :, rows] = v[:, :, low - at : high - at]
        self.tokens = end

    def _stays(self, page: int) -> bool:
        """Whether the keys of a page stay for ever."""
        kept, low = self.of.retention, page * self._size
        assert kept.growing is not None
        return any(low % kept.growing.period in run for run in kept.growing.residues) or any(
            run.start < low + self._size and low < run.stop for run in kept.fixed
        )

    def _make_room(self, pages: int, k: Tensor, v: Tensor) -> None:
        there = 0 if self._k is None else len(self._k)
        if self._k is not None and pages <= len(self._free):
            return
        room = max(there + pages - len(self._free), 2 * there, 4)
        with torch.inference_mode(False):
            found = [t.new_empty((room, *t.shape[:2], self._size, t.shape[3])) for t in (k, v)]
        for new, old in zip(found, (self._k, self._v), strict=True):
            if old is not None:
                new[:there] = old
        self._k, self._v = found
        self._free += range(there, room)

    @property
    def first_query(self) -> int:
        """The first position whose query, and all after it, find all keys that they see; 0 if any does."""
        return self._looked * self._size + self.span if self._looked else 0

    def attend(
        self, rows: Rows, q: Tensor, part: Part, scale: float | None, inputs: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp of queries that see what is there."""
        assert self._k is not None
        assert self._v is not None
        if rows.turns:
            q = turned_queries(rows.spec, q, part.sizes(q, self._k[0, :, :, :0], rows.spec.align, None), {})
        batch = q.shape[0]
        slots = torch.tensor(self._slots, dtype=torch.int32).clamp_(min=0)  # no query asks for what is not there
        table = slots * batch + torch.arange(batch, dtype=torch.int32)[:, None]
        lengths = torch.full((batch,), self.tokens, dtype=torch.int32)
        k, v = self._k.flatten(0, 1), self._v.flatten(0, 1)
        return attend_paged([q, k, v, table, lengths], [], scale, rows.program.encoded)  # type: ignore[no-any-return]

    def attended(self) -> None:
        """Nothing stands here for the queries of the last tokens only."""

    @property
    def positions(self) -> tuple[range, ...]:
        """Where the keys stand that are there."""
        found: list[range] = []
        for page, slot in enumerate(self._slots):
            low, high = page * self._size, min(self.tokens, (page + 1) * self._size)
            if slot != _NONE and found and found[-1].stop == low:
                found[-1] = range(found[-1].start, high)
            elif slot != _NONE:
                found.append(range(low, high))
        return tuple(found)

    @property
    def bytes(self) -> int:
        """The memory that is held."""
        return sum(t.numel() * t.element_size() for t in (self._k, self._v) if t is not None)

    def reset(self) -> None:
        """Forget everything; the room stays."""
        self.tokens, self._looked, self._slots = 0, 0, []
        self._free = list(range(0 if self._k is None else len(self._k)))

    def reorder(self, indices: Tensor) -> None:
        """Take these entries of the batch in place of those there are."""
        if self._k is not None and self._v is not None:
            with torch.inference_mode(False):
                self._k, self._v = (t.index_select(1, indices) for t in (self._k, self._v))
