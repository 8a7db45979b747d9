"""Sets of positions as runs: what a rank holds, and what it needs of others.

>>> needed = (Run(0, 4), Run(10, 20, 3))
>>> count(needed), positions(needed).tolist()
(8, [0, 1, 2, 3, 10, 13, 16, 19])
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Run(NamedTuple):
    """Positions ``start, start + step, ..`` below ``stop``; at least one, and ``stop - 1`` is the last of them."""

    start: int
    stop: int
    step: int = 1

    @property
    def length(self) -> int:
        """How many positions there are."""
        return (self.stop - self.start + self.step - 1) // self.step

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
