"""Positions as a grid, in rectangular tiles: where a pattern looks at rows and columns of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from attnspec.codegen.layouts.base import Layout, Listing, Lists, Proposals, ordered
from attnspec.codegen.tiles import Rectangles, Tile
from attnspec.relation.presburger import Pairs
from attnspec.relation.relation import Part
from attnspec.relation.sizes import Sizes
from attnspec.spec import contents
from attnspec.spec import expr as e

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_WIDTH = 1024


@dataclass(frozen=True)
class Grid(Layout):
    """Positions as a grid read row by row, ``width`` to a row, cut into rectangles (rows, columns of the grid)."""

    width: int
    query: tuple[int, int]
    key: tuple[int, int]

    listed = (True, True)

    def _tiles(self, pairs: Pairs, tile: Tile) -> Pairs:
        return pairs.image(self._tile(self.query, "x"), self._tile(self.key, "y"))

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

    def cut_tiles(self, tiles: range, side: int) -> int:
        """A row of tiles."""
        return self.width // (self.query, self.key)[side][1]

    def __str__(self) -> str:
        (a, b), (c, d) = self.query, self.key
        return f"grid(width {self.width}, queries {a} x {b}, keys {c} x {d})"


def proposals(part: Part, tile: Tile, grids: tuple[Rectangles, ...]) -> Proposals:
    """Grids whose rows are as long as constants by which positions are both divided and reduced."""
    for width in _widths(part.pred):
        for query, key in grids:
            if width % query[1] == 0 and width % key[1] == 0:
                yield Grid(width, query, key), Tile(query[0] * query[1], key[0] * key[1])


def _widths(pred: e.Node) -> list[int]:
    """Row lengths of grids: constants by which positions are both divided and reduced."""
    divided: set[int] = set()
    reduced: set[int] = set()
    for node in contents.walk(pred):
        match node:
            case e.FloorDiv(e.Var("q" | "k"), e.Int(value)):
                divided.add(value)
            case e.Mod(e.Var("q" | "k"), e.Int(value)):
                reduced.add(value)
    return sorted(w for w in divided & reduced if w <= _MOST_WIDTH)
