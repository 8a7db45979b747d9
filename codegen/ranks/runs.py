"""Sets of positions as runs: what a rank holds, and what it needs of others.

>>> needed = (Run(0, 4), Run(10, 20, 3))
>>> count(needed), positions(needed).tolist()
(8, [0, 1, 2, 3, 10, 13, 16, 19])
"""

from __future__ import annotations

from collections.abc import Iterable
from math import lcm
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_MOST_RESIDUES = 1 << 12


class Run(NamedTuple):
    """Positions ``start, start + step, ..`` below ``stop``; at least one, and ``stop - 1`` is the last of them."""

    start: int
    stop: int
    step: int = 1

    @classmethod
    def below(cls, start: int, end: int, step: int = 1) -> Run | None:
        """The positions ``start, start + step, ..`` below ``end``; None if there is none.

        >>> Run.below(3, 12, 4), Run.below(3, 3)
        (Run(start=3, stop=12, step=4), None)
        """
        if start >= end:
            return None
        last = end - 1 - (end - 1 - start) % step
        return cls(start, last + 1, step if last > start else 1)

    @property
    def length(self) -> int:
        """How many positions there are."""
        return (self.stop - self.start + self.step - 1) // self.step

    def meet(self, other: Run) -> Run | None:
        """The positions in both.

        >>> print(Run(1, 98, 4).meet(Run(0, 100, 3)))
        9..93 by 12
        """
        low, high = max(self.start, other.start), min(self.stop, other.stop)
        step = lcm(self.step, other.step)
        found = self.start % self.step
        for _ in range(step // self.step):
            if (found - other.start) % other.step == 0:
                return Run.below(low + (found - low) % step, high, step)
            found += self.step
        return None

    def __str__(self) -> str:
        by = f" by {self.step}" if self.step > 1 else ""
        return f"{self.start:,}..{self.stop - 1:,}{by}"


Runs = tuple[Run, ...]
"""No position stands in two of them; in order of their starts."""


def count(runs: Iterable[Run]) -> int:
    """How many positions there are."""
    return sum(run.length for run in runs)


def positions(runs: Iterable[Run]) -> NDArray[np.int64]:
    """All of them, run after run."""
    found = [np.arange(run.start, run.stop, run.step, dtype=np.int64) for run in runs]
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


def common(runs: Runs, other: Run) -> Runs:
    """The positions of runs that are in another one too."""
    return tuple(sorted(met for run in runs if (met := run.meet(other)) is not None))


def union(*sets: Iterable[Run]) -> Runs:
    """The positions of any of the runs, each once, in few runs.

    >>> print(*union([Run(0, 10)], [Run(8, 13), Run(20, 31, 5)], [Run(25, 26)]))
    0..12 20..30 by 5
    """
    runs = sorted({run for one in sets for run in one})
    if len(runs) < 2:
        return tuple(runs)
    if all(run.step == 1 for run in runs):
        return tuple(Run(low, high) for low, high in _joined([(run.start, run.stop) for run in runs]))
    period = lcm(*(run.step for run in runs))
    if period > _MOST_RESIDUES:
        return listed(np.unique(positions(runs)))
    classes: dict[int, list[tuple[int, int]]] = {}
    for run in runs:  # in places of its residue: position = residue + period * place
        for start in range(run.start, min(run.stop, run.start + period), run.step):
            last = run.stop - 1 - (run.stop - 1 - start) % period
            classes.setdefault(start % period, []).append((start // period, last // period + 1))
    found = [
        (residue + period * low, residue + period * (high - 1))
        for residue, spans in classes.items()
        for low, high in _joined(sorted(spans))
    ]
    return _folded(sorted(found), period)


def listed(places: NDArray[np.int64]) -> Runs:
    """Positions in order as runs, each as long as can be, from the first on.

    >>> print(*listed(np.array([0, 1, 2, 7, 12, 17, 18])))
    0..2 7..17 by 5 18..18
    """
    if not len(places):
        return ()
    gaps = np.diff(places)
    bounds = np.flatnonzero(np.diff(gaps)) + 1  # of places where another gap begins
    found: list[Run] = []
    at = 0
    for bound in [*bounds.tolist(), len(places) - 1]:
        if bound < at:
            continue  # the place went to the run before
        first, last = int(places[at]), int(places[bound])
        found.append(Run(first, last + 1, (last - first) // (bound - at) if bound > at else 1))
        at = bound + 1
    return tuple(found)


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Intervals in order of their starts, with those that touch made one."""
    found: list[tuple[int, int]] = []
    for low, high in spans:
        if found and low <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return found


def _folded(spans: list[tuple[int, int]], period: int) -> Runs:
    """Spans (first, last) by a period, with what lies side by side all through the period as runs without steps.

    No more than a period of them lie side by side: the next would go on with the first.
    """
    found: list[Run] = []
    at = 0
    while at < len(spans):
        end = at + 1
        while end < len(spans) and spans[end][0] == spans[end - 1][0] + 1:
            end += 1
        chain = spans[at:end]
        lasts = [last for _, last in chain]
        if len(chain) == period and max(lasts) - min(lasts) == period - 1:
            found.append(Run(chain[0][0], max(lasts) + 1))
        else:
            found += [Run(first, last + 1, period if last > first else 1) for first, last in chain]
        at = end
    singles = [(run.start, run.stop) for run in found if run.step == 1]
    return tuple(sorted([Run(a, b) for a, b in _joined(sorted(singles))] + [run for run in found if run.step > 1]))
