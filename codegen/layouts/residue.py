"""Layouts: bijections on positions under which tiles are cut (DESIGN 5.1).

A layout puts positions into slots; a tile is a run of slots. ``Residue(r)`` has r separate sequences of slots, one for
each residue ``c``: slot u of residue c is position ``c + r * u``, which a kernel reaches with a stride. The others list
the position of each slot.

>>> Residue(4).positions(1, 3)
array([1, 5, 9])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

import numpy as np

from attnspec.codegen.layouts.base import Listing, Lists, ordered
from attnspec.codegen.layouts.comb import Comb
from attnspec.relation.presburger import Pairs
from attnspec.relation.sizes import Sizes

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Residue:
    """Positions that agree modulo ``modulus`` lie side by side; modulus 1 leaves everything where it is."""

    modulus: int

    listed = (False, False)
    """Whether a kernel finds queries, and keys, by a list of positions."""

    @property
    def residues(self) -> int:
        """How many sequences of slots there are."""
        return self.modulus

    def positions(self, c: int, count: int) -> NDArray[np.int64]:
        """The first positions of residue c."""
        return c + self.modulus * np.arange(count, dtype=np.int64)

    def universe(self) -> Pairs:
        """All pairs that tiles of this layout can hold."""
        return Pairs.read(f"y >= 0 and (x - y) mod {self.modulus} = 0" if self.modulus > 1 else "y >= 0")

    def tiles(self, pairs: Pairs, rows: int, columns: int) -> Pairs:
        """The tiles that hold at least one of the pairs; they depend on the parameter c."""
        view = pairs.residue(self.modulus) if self.modulus > 1 else pairs
        return view.tiles(rows, columns)

    def known(self) -> str:
        """What holds for the parameter c."""
        return f"0 <= c < {self.modulus}" if self.modulus > 1 else "c = 0"

    def key_bounds(self, columns: int) -> str:
        """Which key tiles ``y`` hold a key of the call."""
        return f"y >= 0 and {self.modulus * columns} * y + c < n"

    def whole(self, columns: int) -> str:
        """Which key tiles ``y`` hold nothing but keys of the call."""
        return f"{self.modulus * columns} * y + {self.modulus * (columns - 1)} + c < n"

    def query_bounds(self, rows: int, first: str) -> str:
        """Which query tiles ``x`` hold a query of the call; ``first`` is the position of row 0."""
        r = self.modulus
        return f"{r * rows} * x + {r * (rows - 1)} + c >= {first} and {r * rows} * x + c < {first} + n_q"

    def query_slots(self, sizes: Sizes, c: int, rows: int) -> range:
        """The slots that hold the queries of a call."""
        first = -((c - sizes.first) // self.modulus)
        return range(first, max(first, (sizes.first + sizes.n_q - 1 - c) // self.modulus + 1))

    def key_slots(self, sizes: Sizes, c: int, columns: int) -> range:
        """The slots that hold the keys of a call."""
        return range(max(0, -(-(sizes.n - c) // self.modulus)))

    def query_positions(self, tile: int, sizes: Sizes, c: int, rows: int) -> NDArray[np.int64]:
        """The positions of the queries in a tile."""
        return _strided(self.query_slots(sizes, c, rows), tile, rows, c, self.modulus)

    def key_positions(self, tile: int, sizes: Sizes, c: int, columns: int) -> NDArray[np.int64]:
        """The positions of the keys in a tile."""
        return _strided(self.key_slots(sizes, c, columns), tile, columns, c, self.modulus)

    def lists(self, sizes: Sizes, rows: int, columns: int) -> Lists:
        """What a kernel reads to find positions: nothing."""
        return None, None

    def __str__(self) -> str:
        return "identity" if self.modulus == 1 else f"residue({self.modulus})"


@dataclass(frozen=True)
class Grid:
    """Positions as a grid read row by row, ``width`` to a row, cut into rectangles (rows, columns of the grid)."""

    width: int
    query: tuple[int, int]
    key: tuple[int, int]

    residues = 1
    listed = (True, True)

    def universe(self) -> Pairs:
        """All pairs that tiles of this layout can hold."""
        return Pairs.read("y >= 0")

    def tiles(self, pairs: Pairs, rows: int, columns: int) -> Pairs:
        """The tiles that hold at least one of the pairs."""
        return pairs.image(self._tile(self.query, "x"), self._tile(self.key, "y"))

    def known(self) -> str:
        """What holds for the parameter c."""
        return "c = 0"

    def key_bounds(self, columns: int) -> str:
        """Which key tiles ``y`` hold a key of the call."""
        return f"y >= 0 and {self._corner(self.key, 'y')} < n"

    def whole(self, columns: int) -> str:
        """Which key tiles ``y`` hold nothing but keys of the call."""
        height, width = self.key
        return f"{self._corner(self.key, 'y')} + {(height - 1) * self.width + width - 1} < n"

    def query_bounds(self, rows: int, first: str) -> str:
        """Which query tiles ``x`` may hold a query of the call."""
        height, width = self.query
        last = (height - 1) * self.width + width - 1
        corner = self._corner(self.query, "x")
        return f"{corner} + {last} >= {first} and {corner} < {first} + n_q"

    def query_slots(self, sizes: Sizes, c: int, rows: int) -> range:
        """The slots of the tiles that hold the queries of a call."""
        return self._slots(self.query, sizes.first, sizes.first + sizes.n_q)

    def key_slots(self, sizes: Sizes, c: int, columns: int) -> range:
        """The slots of the tiles that hold the keys of a call."""
        return self._slots(self.key, 0, sizes.n)

    def query_positions(self, tile: int, sizes: Sizes, c: int, rows: int) -> NDArray[np.int64]:
        """The positions of the queries in a tile."""
        return self._positions(self.query, tile, sizes.first, sizes.first + sizes.n_q)

    def key_positions(self, tile: int, sizes: Sizes, c: int, columns: int) -> NDArray[np.int64]:
        """The positions of the keys in a tile."""
        return self._positions(self.key, tile, 0, sizes.n)

    def lists(self, sizes: Sizes, rows: int, columns: int) -> Lists:
        """The positions of all slots."""
        return (
            self._listing(self.query, sizes.first, sizes.first + sizes.n_q),
            self._listing(self.key, 0, sizes.n),
        )

    def _listing(self, shape: tuple[int, int], low: int, high: int) -> Listing:
        height, width = shape
        per_row, size = self.width // width, height * width
        slots = self._slots(shape, low, high)
        tiles = np.arange(slots.start // size, slots.stop // size, dtype=np.int64)
        corners = self.width * height * (tiles // per_row) + width * (tiles % per_row)
        inside = self.width * np.arange(height, dtype=np.int64)[:, None] + np.arange(width, dtype=np.int64)
        at = corners[:, None] + inside.ravel()
        return Listing(slots.start, ordered(at, (at < low) | (at >= high), size), len(slots))

    def _tile(self, shape: tuple[int, int], name: str) -> str:
        height, width = shape
        per_row = self.width // width
        return f"{per_row} * floor({name} / {self.width * height}) + floor(({name} mod {self.width}) / {width})"

    def _corner(self, shape: tuple[int, int], name: str) -> str:
        height, width = shape
        per_row = self.width // width
        return f"{self.width * height} * floor({name} / {per_row}) + {width} * ({name} mod {per_row})"

    def _slots(self, shape: tuple[int, int], low: int, high: int) -> range:
        if low >= high:
            return range(0)
        height, width = shape
        band, size = self.width * height, self.width // width * height * width
        return range(low // band * size, ((high - 1) // band + 1) * size)

    def _positions(self, shape: tuple[int, int], tile: int, low: int, high: int) -> NDArray[np.int64]:
        height, width = shape
        per_row = self.width // width
        corner = self.width * height * (tile // per_row) + width * (tile % per_row)
        at = corner + self.width * np.arange(height, dtype=np.int64)[:, None] + np.arange(width, dtype=np.int64)
        flat = at.ravel()
        return flat[(flat >= low) & (flat < high)]

    def __str__(self) -> str:
        (a, b), (c, d) = self.query, self.key
        return f"grid(width {self.width}, queries {a} x {b}, keys {c} x {d})"


@dataclass(frozen=True)
class Columns:
    """Queries in order; of the keys only those with ``first <= k % period < first + width``, gathered side by side."""

    period: int
    first: int
    width: int

    residues = 1
    listed = (False, True)

    def universe(self) -> Pairs:
        """All pairs that tiles of this layout can hold."""
        return Pairs.read(f"y >= 0 and {self.first} <= y mod {self.period} < {self.first + self.width}")

    def tiles(self, pairs: Pairs, rows: int, columns: int) -> Pairs:
        """The tiles that hold at least one of the pairs."""
        slot = f"{self.width} * floor(y / {self.period}) + (y mod {self.period}) - {self.first}"
        return pairs.intersection(self.universe()).image(f"floor(x / {rows})", f"floor(({slot}) / {columns})")

    def known(self) -> str:
        """What holds for the parameter c."""
        return "c = 0"

    def key_bounds(self, columns: int) -> str:
        """Which key tiles ``y`` hold a key of the call."""
        slot = f"({columns} * y)"
        return f"y >= 0 and {self.period} * floor({slot} / {self.width}) + ({slot} mod {self.width}) + {self.first} < n"

    def whole(self, columns: int) -> str:
        """Which key tiles ``y`` hold nothing but keys of the call."""
        slot = f"({columns} * y + {columns - 1})"
        return f"{self.period} * floor({slot} / {self.width}) + ({slot} mod {self.width}) + {self.first} < n"

    def query_bounds(self, rows: int, first: str) -> str:
        """Which query tiles ``x`` hold a query of the call."""
        return Residue(1).query_bounds(rows, first)

    def query_slots(self, sizes: Sizes, c: int, rows: int) -> range:
        """The slots that hold the queries of a call."""
        return Residue(1).query_slots(sizes, c, rows)

    def key_slots(self, sizes: Sizes, c: int, columns: int) -> range:
        """The slots that hold the keys of a call."""
        whole, rest = divmod(sizes.n, self.period)
        return range(whole * self.width + min(self.width, max(0, rest - self.first)))

    def query_positions(self, tile: int, sizes: Sizes, c: int, rows: int) -> NDArray[np.int64]:
        """The positions of the queries in a tile."""
        return Residue(1).query_positions(tile, sizes, c, rows)

    def key_positions(self, tile: int, sizes: Sizes, c: int, columns: int) -> NDArray[np.int64]:
        """The positions of the keys in a tile."""
        slots = _strided(self.key_slots(sizes, c, columns), tile, columns, 0, 1)
        return slots // self.width * self.period + slots % self.width + self.first

    def lists(self, sizes: Sizes, rows: int, columns: int) -> Lists:
        """The positions of the keys."""
        slots = np.arange(len(self.key_slots(sizes, 0, 1)), dtype=np.int64)
        return None, Listing(0, slots // self.width * self.period + slots % self.width + self.first, len(slots))

    def __str__(self) -> str:
        if self.width == 1:
            return f"columns(k % {self.period} == {self.first})"
        return f"columns({self.first} <= k % {self.period} < {self.first + self.width})"


@dataclass(frozen=True)
class Slots:
    """The places of a computed order: the queries of one round, and the keys of all rounds."""

    round: int
    rounds: int

    residues = 1
    listed = (True, True)

    def universe(self) -> Pairs:
        """All pairs that tiles of this layout can hold."""
        return Pairs.read("y >= 0")

    def tiles(self, pairs: Pairs, rows: int, columns: int) -> Pairs:
        """The tiles that hold at least one of the pairs, which are pairs of slots."""
        return pairs.tiles(rows, columns)

    def known(self) -> str:
        """What holds for the parameter c."""
        return "c = 0"

    def key_bounds(self, columns: int) -> str:
        """Which key tiles ``y`` hold a slot of the call."""
        return f"y >= 0 and {columns} * y < {self.rounds} * n"

    def whole(self, columns: int) -> str:
        """Which key tiles ``y`` hold nothing but slots of the call."""
        return f"{columns} * y + {columns - 1} < {self.rounds} * n"

    def query_bounds(self, rows: int, first: str) -> str:
        """Which query tiles ``x`` hold a slot of the round."""
        return f"{rows} * x + {rows - 1} >= {self.round} * n and {rows} * x < {self.round + 1} * n"

    def query_slots(self, sizes: Sizes, c: int, rows: int) -> range:
        """The slots of the round."""
        return range(self.round * sizes.n, (self.round + 1) * sizes.n)

    def key_slots(self, sizes: Sizes, c: int, columns: int) -> range:
        """All slots."""
        return range(self.rounds * sizes.n)

    def query_positions(self, tile: int, sizes: Sizes, c: int, rows: int) -> NDArray[np.int64]:
        """The slots in a query tile (a computed order turns them into positions)."""
        return _strided(self.query_slots(sizes, c, rows), tile, rows, 0, 1)

    def key_positions(self, tile: int, sizes: Sizes, c: int, columns: int) -> NDArray[np.int64]:
        """The slots in a key tile."""
        return _strided(self.key_slots(sizes, c, columns), tile, columns, 0, 1)

    def lists(self, sizes: Sizes, rows: int, columns: int) -> Lists:
        """What a kernel reads to find positions: nothing."""
        return None, None

    def __str__(self) -> str:
        return f"slots of round {self.round}"


Layout = Union[Residue, Grid, Columns, Slots, Comb]

IDENTITY = Residue(1)


def tiles_of(slots: range, size: int) -> range:
    """The tiles that hold some of the slots."""
    return range(slots.start // size, (slots.stop - 1) // size + 1) if slots else range(0)


def _strided(slots: range, tile: int, size: int, c: int, modulus: int) -> NDArray[np.int64]:
    low, high = max(slots.start, tile * size), min(slots.stop, tile * size + size)
    return c + modulus * np.arange(low, max(low, high), dtype=np.int64)
