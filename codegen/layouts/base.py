"""The positions of slots as a list, where no stride leads from one to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

EMPTY = -(1 << 31)
"""Stands where a slot holds no position (positions may be negative where there are more queries than keys)."""


@dataclass(frozen=True, eq=False)
class Listing:
    """The positions of the slots from ``first`` on; EMPTY, at the end of a tile, where a slot holds none.

    Residue follows residue, each of ``count`` slots.
    """

    first: int
    positions: NDArray[np.int64]
    count: int


Lists = tuple[Listing | None, Listing | None]
"""The positions of the slots of queries and keys; None where a stride does it, or they come with the call."""


def ordered(at: NDArray[np.int64], gone: NDArray[np.bool_], size: int) -> NDArray[np.int64]:
    """Positions in a row; those that are ``gone`` become EMPTY, at the end of their tile of ``size`` slots."""
    tiles, absent = at.reshape(-1, size), gone.reshape(-1, size)
    order = np.argsort(absent, axis=1, kind="stable")
    return np.take_along_axis(np.where(absent, EMPTY, tiles), order, axis=1).ravel()
