"""Where parts are computed: at the rank that has the queries, or at the one that has the keys."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from attnspec.codegen.ranks.needs import Ints, Spans
from attnspec.codegen.ranks.parts import Parts, parts
from attnspec.codegen.ranks.patterns import Pattern
from attnspec.codegen.ranks.runs import Run, Runs
from attnspec.codegen.ranks.shards import Shards
from attnspec.codegen.ranks.traffic import Widths
from attnspec.relation.sizes import Sizes


@dataclass(frozen=True, eq=False)
class Placed:
    """The parts of a pattern across chunks; ``moved`` are those whose queries travel to the rank that has the keys."""

    pattern: Pattern
    shards: Shards
    parts: Parts
    moved: NDArray[np.bool_]

    @cached_property
    def asker(self) -> Ints:
        """The rank that has the queries of each part."""
        return np.array(self.shards.owners, dtype=np.int64)[self.parts.asker]

    @cached_property
    def keeper(self) -> Ints:
        """The rank that has its keys."""
        return np.array(self.shards.owners, dtype=np.int64)[self.parts.keeper]

    @property
    def place(self) -> Ints:
        """The rank that computes it."""
        return np.where(self.moved, self.keeper, self.asker)

    @property
    def other(self) -> Ints:
        """The rank that sends for it."""
        return np.where(self.moved, self.asker, self.keeper)

    def runs(self, part: int) -> tuple[Runs, Runs]:
        """The rows and the keys of a part."""
        return self._rows(part), self._keys(part)

    def _rows(self, part: int) -> Runs:
        return _read(self.parts.rows, *self._row_bounds[:, part])

    def _keys(self, part: int) -> Runs:
        return _read(self.parts.keys, *self._key_bounds[:, part])

    @cached_property
    def _row_bounds(self) -> Ints:
        return _bounds(self.parts.rows, len(self.parts))

    @cached_property
    def _key_bounds(self) -> Ints:
        return _bounds(self.parts.keys, len(self.parts))


def _bounds(spans: Spans, number: int) -> Ints:
    """Where the runs of each part begin and end; they stand part by part."""
    parts_ = np.arange(number)
    return np.stack([np.searchsorted(spans.of, parts_), np.searchsorted(spans.of, parts_, side="right")])


def _read(spans: Spans, first: int, end: int) -> Runs:
    columns = (spans.start[first:end].tolist(), spans.stop[first:end].tolist(), spans.step[first:end].tolist())
    return tuple(Run(*run) for run in zip(*columns, strict=True))


def placed(pattern: Pattern, shards: Shards, sizes: Sizes, widths: Widths) -> Placed:
    """Each part where fewer bytes travel forward: its keys and values, or its queries and what they give."""
    found = parts(pattern.pairs, shards)
    shared = max(1, sizes.heads // max(1, sizes.kv_heads))
    first = 0 if pattern.heads is None else pattern.heads[0]
    key_heads = -(-(first + pattern.count) // shared) - first // shared
    rows = found.row_count * (pattern.count * (widths.query + widths.result))
    keys = found.key_count * (key_heads * widths.key)
    owners = np.array(shards.owners, dtype=np.int64)
    return Placed(pattern, shards, found, (rows < keys) & (owners[found.asker] != owners[found.keeper]))
