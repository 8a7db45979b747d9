"""Layouts whose slots a kernel finds in a list: no stride leads from one position of a tile to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from attnspec.codegen.layouts.base import Layout, Listing, Lists
from attnspec.relation.count import TooIrregular
from attnspec.relation.sizes import Sizes

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_TILES = 1 << 15
EMPTY = -(1 << 31)
"""Stands where a slot holds no position (positions may be negative where there are more queries than keys)."""


class Listed(Layout):
    """Slots in lists, where those of a tile that hold nothing are EMPTY and stand at its end.

    A layout says which slots there are and where they lie; ``side`` is 0 for queries and 1 for keys.
    """

    listed = (True, True)

    def slots_around(self, side: int, low: int, high: int) -> range:
        """The slots of whole tiles that hold the positions from ``low`` to before ``high``; not all of them do."""
        raise NotImplementedError

    def slots_between(self, side: int, low: int, high: int) -> range:
        """As few of them as hold these positions in some residue."""
        return self.slots_around(side, low, high)

    def places(self, side: int, slots: NDArray[np.int64], c: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """The position of each slot of a residue, int64 of their joint shape; EMPTY where it holds none."""
        raise NotImplementedError

    def query_slots(self, sizes: Sizes, c: int, rows: int) -> range:
        """The slots of the tiles that hold the queries of a call."""
        return self._slots(0, sizes)

    def key_slots(self, sizes: Sizes, c: int, columns: int) -> range:
        """The slots of the tiles that hold the keys of a call."""
        return self._slots(1, sizes)

    def query_positions(self, tile: int, sizes: Sizes, c: int, rows: int) -> NDArray[np.int64]:
        """The positions of the queries in a tile."""
        return self._positions(0, sizes, tile, rows, c)

    def key_positions(self, tile: int, sizes: Sizes, c: int, columns: int) -> NDArray[np.int64]:
        """The positions of the keys in a tile."""
        return self._positions(1, sizes, tile, columns, c)

    def lists(self, sizes: Sizes, rows: int, columns: int) -> Lists:
        """The positions of all slots, residue after residue."""
        return self._listing(0, sizes, rows), self._listing(1, sizes, columns)

    def held_slots(self, side: int, sizes: Sizes) -> range:
        """The slots between which, in all residues, those of a call lie."""
        low, high = _ends(side, sizes)
        return self.slots_between(side, low, high) if low < high else range(0)

    def _slots(self, side: int, sizes: Sizes) -> range:
        low, high = _ends(side, sizes)
        return self.slots_around(side, low, high) if low < high else range(0)

    def _positions(self, side: int, sizes: Sizes, tile: int, size: int, c: int) -> NDArray[np.int64]:
        low, high = _ends(side, sizes)
        at = self.places(side, np.arange(tile * size, (tile + 1) * size, dtype=np.int64), c)
        return at[(at >= low) & (at < high)]

    def _listing(self, side: int, sizes: Sizes, size: int) -> Listing:
        low, high = _ends(side, sizes)
        slots, residues = self._slots(side, sizes), np.arange(self.residues, dtype=np.int64)[:, None]
        at = self.places(side, np.arange(slots.start, slots.stop, dtype=np.int64), residues).reshape(-1, size)
        gone = (at < low) | (at >= high)
        order = np.argsort(gone, axis=1, kind="stable")
        positions = np.take_along_axis(np.where(gone, EMPTY, at), order, axis=1).ravel()
        return Listing(slots.start, positions, len(slots))


def most_tiles(tiles: range) -> int:
    """All of the tiles, where each may hold fewer positions than fit. Raises TooIrregular where they are too many."""
    if len(tiles) > _MOST_TILES:
        raise TooIrregular
    return len(tiles)


def _ends(side: int, sizes: Sizes) -> tuple[int, int]:
    """The first position of the queries, or keys, of a call, and the one after the last."""
    held = sizes.held
    return (held.k_start, held.k_start + held.keys) if side else (held.q_start, held.q_start + held.rows)
