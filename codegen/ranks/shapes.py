"""Runs counted from the beginning of a chunk: the same for many chunks, and then one value with a number.

>>> shapes = Shapes()
>>> a, b = shapes.add((Run(0, 4),)), shapes.add((Run(2, 9, 3),))
>>> shapes.add((Run(0, 4),)) == a, shapes.counts.tolist(), shapes.union({a, b})
(True, [4, 3], 6)
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from attnspec.codegen.ranks.runs import Run, Runs, count, union
from attnspec.codegen.ranks.shards import Shards


class Shapes:
    """A table of runs; positions of a chunk are ``first + step * offset``, by those of :class:`Shards`."""

    def __init__(self) -> None:
        self.runs: list[Runs] = []
        self._numbers: dict[Runs, int] = {}
        self._unions: dict[frozenset[int], int] = {}

    def add(self, runs: Runs) -> int:
        """The number of some runs."""
        number = self._numbers.setdefault(runs, len(self.runs))
        if number == len(self.runs):
            self.runs.append(runs)
        return number

    def add_positions(self, runs: Runs, shards: Shards, chunk: int) -> int:
        """The number of runs of positions of a chunk."""
        first, step = shards.first(chunk), shards.step
        found = []
        for run in runs:
            start, stop = (run.start - first) // step, (run.stop - 1 - first) // step + 1
            found.append(Run(start, stop, run.step // step if run.length > 1 else 1))
        return self.add(tuple(found))

    def positions(self, number: int, shards: Shards, chunk: int) -> Runs:
        """The runs of a chunk that have a shape."""
        first, step = shards.first(chunk), shards.step
        return tuple(
            Run(first + step * run.start, first + step * (run.stop - 1) + 1, run.step * step if run.length > 1 else 1)
            for run in self.runs[number]
        )

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many positions each shape has."""
        return np.array([count(runs) for runs in self.runs], dtype=np.int64)

    @property
    def bounds(self) -> NDArray[np.int64]:
        """The first offset of each shape, and the one after its last: shape (shapes, 2)."""
        ends = [(runs[0].start, max(run.stop for run in runs)) for runs in self.runs]
        return np.array(ends, dtype=np.int64).reshape(-1, 2)

    def union(self, numbers: Iterable[int]) -> int:
        """How many positions some shapes have together."""
        key = frozenset(numbers)
        if key not in self._unions:
            self._unions[key] = count(union(*(self.runs[number] for number in key)))
        return self._unions[key]
