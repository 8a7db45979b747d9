"""Positions as a grid, in rectangular tiles: where a pattern looks at rows and columns of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from attnspec.codegen.layouts.base import Proposals
from attnspec.codegen.layouts.listed import Listed
from attnspec.codegen.tiles import Rectangles, Tile
from attnspec.relation.presburger import Pairs
from attnspec.relation.relation import Part
from attnspec.spec import contents
from attnspec.spec import expr as e

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_WIDTH = 1024


@dataclass(frozen=True)
class Grid(Listed):
    """Positions as a grid read row by row, ``width`` to a row, cut into rectangles (rows, columns of the grid)."""

    width: int
    query: tuple[int, int]
    key: tuple[int, int]

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

    def _tile(self, shape: tuple[int, int], name: str) -> str:
        height, width = shape
        per_row = self.width // width
        return f"{per_row} * floor({name} / {self.width * height}) + floor(({name} mod {self.width}) / {width})"

    def _corner(self, shape: tuple[int, int], name: str) -> str:
        height, width = shape
        per_row = self.width // width
        return f"{self.width * height} * floor({name} / {per_row}) + {width} * ({name} mod {per_row})"

    def slots_around(self, side: int, low: int, high: int) -> range:
        """The slots of whole rows of tiles."""
        height, width = (self.query, self.key)[side]
        band, size = self.width * height, self.width // width * height * width
        return range(low // band * size, ((high - 1) // band + 1) * size)

    def places(self, side: int, slots: NDArray[np.int64], c: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """The corner of the slot's tile, and from there row by row."""
        height, width = (self.query, self.key)[side]
        per_row = self.width // width
        tile, inside = slots // (height * width), slots % (height * width)
        corner = self.width * height * (tile // per_row) + width * (tile % per_row)
        return corner + self.width * (inside // width) + inside % width

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
