"""Which rows of a tensor hold which positions.

>>> rows = Rows.of((Run(0, 8), Run(20, 40, 2)))
>>> rows.at(Run(22, 32, 4)), rows.at(Run(6, 10))
(slice(9, 14, 2), None)
>>> rows.shared(Run(6, 24, 2))
[(slice(0, 1, 1), slice(6, 7, 2)), (slice(7, 9, 1), slice(8, 10, 1))]
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

from attnspec.codegen.ranks.runs import Run, Runs


@dataclass(frozen=True)
class Rows:
    """Runs of positions, one after another in rows: those that go on where another ends are one."""

    runs: Runs
    first: tuple[int, ...]
    """The row of the first position of each run."""

    @classmethod
    def of(cls, runs: Runs) -> Rows:
        """Of runs in the order of their rows."""
        found: list[Run] = []
        for run in runs:
            last = found[-1] if found else None
            if last is not None and last.step == run.step == 1 and last.stop == run.start:
                found[-1] = Run(last.start, run.stop)
            else:
                found.append(run)
        first, row = [], 0
        for run in found:
            first.append(row)
            row += run.length
        return cls(tuple(found), tuple(first))

    @property
    def count(self) -> int:
        """How many rows there are."""
        return self.first[-1] + self.runs[-1].length if self.runs else 0

    def at(self, run: Run) -> slice | None:
        """The rows of a run, if one of these holds all of it."""
        length = run.length
        last = run.start + (length - 1) * run.step
        for own, first in zip(self.runs, self.first, strict=True):
            if own.start <= run.start and last < own.stop and (run.start - own.start) % own.step == 0:
                stride = run.step // own.step if length > 1 else 1
                if length > 1 and run.step % own.step:
                    continue
                row = first + (run.start - own.start) // own.step
                return slice(row, row + (length - 1) * stride + 1, stride)
        return None

    def shared(self, run: Run) -> list[tuple[slice, slice]]:
        """Where positions of a run that stand in these rows lie in the run, and in the rows."""
        found = []
        for own, first in zip(self.runs, self.first, strict=True):
            step = lcm(own.step, run.step)
            low, high = max(own.start, run.start), min(own.stop, run.stop)
            start = own.start + -(-(low - own.start) // own.step) * own.step
            start = next(
                (p for p in range(start, min(high, start + step), own.step) if (p - run.start) % run.step == 0), high
            )
            if start < high:
                count = (high - 1 - start) // step + 1
                found.append(
                    (
                        _every((start - run.start) // run.step, count, step // run.step),
                        _every(first + (start - own.start) // own.step, count, step // own.step),
                    )
                )
        return found


def _every(start: int, count: int, step: int) -> slice:
    return slice(start, start + (count - 1) * step + 1, step)
