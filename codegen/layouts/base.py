"""What a layout is: a bijection on positions under which tiles are cut.

A layout puts positions into slots; a tile is a run of slots. It may have several separate sequences of slots, one for
each residue ``c``. A kernel reaches the position of a slot with a stride, or reads it from a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from attnspec.codegen.layouts.region import Region, Tiles
from attnspec.codegen.tiles import Tile
from attnspec.relation.presburger import Pairs, TooHard, budget
from attnspec.relation.sizes import Sizes

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Listing:
    """The positions of the slots from ``first`` on, int64 of (residues * count,).

    Residue follows residue, each of ``count`` slots.
    """

    first: int
    positions: NDArray[np.int64]
    count: int


Lists = tuple[Listing | None, Listing | None]
"""The positions of the slots of queries and keys; None where a stride does it, or they come with the call."""


class Layout:
    """Queries in order; all else is said by the layouts, each in its own file.

    In conditions, ``x`` and ``y`` are query and key tiles, and the residue ``c`` is a parameter.
    """

    listed = (False, False)
    """Whether a kernel finds queries, and keys, by a list of positions."""
    scattered = False
    """Whether some keys have no slot, or several: gradients of keys are then added to what is there."""
    tests_tiles = False
    """Whether inputs can tell of a whole tile: its positions have a stride, or are places by which they are sorted."""

    @property
    def residues(self) -> int:
        """How many sequences of slots there are."""
        return 1

    @property
    def order(self) -> tuple[int, int] | None:
        """If slots are the places of a computed order: the round of the queries, and how many rounds there are."""
        return None

    def universe(self) -> Pairs:
        """All pairs of positions that tiles of this layout can hold."""
        return Pairs.read("y >= 0")

    def cut(self, region: Region, tile: Tile) -> Tiles:
        """Tell full from partial tiles.

        With ``T`` the map from pairs to tiles: touched tiles are ``T(R)``; full ones are touched and not in ``T`` of
        the complement of R; the rest are partial. All in the unbounded grid, so that one plan serves every length.
        """
        nothing = Pairs.read("false")
        try:
            with budget(region.pairs):
                touched = self._tiles(region.pairs, tile)
        except TooHard:
            return Tiles(nothing, nothing, Pairs.read("y >= 0"), False)
        try:
            with budget(region.pairs, region.sure, touched, less=touched):
                possible = touched.difference(self._tiles(self.universe().difference(region.pairs), tile))
                if region.sure is region.pairs:
                    return Tiles(possible, nothing, touched.difference(possible), True)
                full = touched.difference(self._tiles(self.universe().difference(region.sure), tile))
                return Tiles(full, possible.difference(full), touched.difference(possible), True)
        except TooHard:
            return Tiles(nothing, nothing, touched, False)

    def _tiles(self, pairs: Pairs, tile: Tile) -> Pairs:
        """The tiles that hold at least one of the pairs."""
        raise NotImplementedError

    def known(self) -> str:
        """What holds for the parameter c."""
        return f"0 <= c < {self.residues}" if self.residues > 1 else "c = 0"

    def key_bounds(self, columns: int) -> str:
        """Which key tiles ``y`` hold a key of the call."""
        raise NotImplementedError

    def whole(self, columns: int) -> str:
        """Which key tiles ``y`` hold nothing but keys of the call."""
        raise NotImplementedError

    def query_bounds(self, rows: int, first: str) -> str:
        """Which query tiles ``x`` may hold a query of the call; ``first`` is the position of row 0."""
        r = self.residues
        return f"{r * rows} * x + {r * (rows - 1)} + c >= {first} and {r * rows} * x + c < {first} + n_q"

    def query_slots(self, sizes: Sizes, c: int, rows: int) -> range:
        """The slots that hold the queries of a call; those of their tiles, where they are listed."""
        held = sizes.held
        return self.slots_of(held.q_start, held.rows, c)

    def held_slots(self, side: int, sizes: Sizes) -> range:
        """Of a layout in lists the slots between which, in all residues, those of a call lie; 0: queries, 1: keys."""
        return self.key_slots(sizes, 0, 1) if side else self.query_slots(sizes, 0, 1)

    def slots_of(self, start: int, count: int, c: int) -> range:
        """The slots of residue c that hold ``count`` positions from ``start`` on, where a stride leads to them."""
        first = -((c - start) // self.residues)
        return range(first, max(first, (start + count - 1 - c) // self.residues + 1))

    def key_slots(self, sizes: Sizes, c: int, columns: int) -> range:
        """The slots that hold the keys of a call."""
        raise NotImplementedError

    def query_positions(self, tile: int, sizes: Sizes, c: int, rows: int) -> NDArray[np.int64]:
        """The positions of the queries in a tile, (at most rows,) int64."""
        return self._strided(self.query_slots(sizes, c, rows), tile, rows, c)

    def key_positions(self, tile: int, sizes: Sizes, c: int, columns: int) -> NDArray[np.int64]:
        """The positions of the keys in a tile, (at most columns,) int64."""
        return self._strided(self.key_slots(sizes, c, columns), tile, columns, c)

    def _strided(self, slots: range, tile: int, size: int, c: int) -> NDArray[np.int64]:
        low, high = max(slots.start, tile * size), min(slots.stop, tile * size + size)
        return c + self.residues * np.arange(low, max(low, high), dtype=np.int64)

    def lists(self, sizes: Sizes, rows: int, columns: int) -> Lists:
        """What a kernel reads to find positions, residue after residue."""
        return None, None

    def block(self, tile: Tile) -> tuple[int, int, int] | None:
        """How many positions, query tiles and key tiles it takes until the layout repeats; None if it does not."""
        return None

    def cut_tiles(self, tiles: range, side: int) -> int:
        """How many of the tiles of queries (``side`` 0) or keys (1) at either end may hold fewer positions than fit.

        Raises TooIrregular where they are too many to be looked at.
        """
        return 1


Proposals = Iterator[tuple[Layout, Tile]]
"""Layouts in which pairs may lie denser than in order, each with the tile that goes with it."""


def tiles_of(slots: range, size: int) -> range:
    """The tiles that hold some of the slots."""
    return range(slots.start // size, (slots.stop - 1) // size + 1) if slots else range(0)
