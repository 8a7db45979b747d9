"""Positions as a grid, in rectangular tiles: where a pattern looks at rows and columns of an image."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING

import numpy as np

from attnspec.codegen.layouts.base import Proposals
from attnspec.codegen.layouts.listed import EMPTY, Listed, most_tiles
from attnspec.codegen.tiles import CPU, Rectangles, Tile
from attnspec.relation.presburger import Pairs
from attnspec.relation.relation import Part
from attnspec.spec import contents
from attnspec.spec import expr as e

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_WIDTH = 1024
_MOST_QUERIES, _MOST_KEYS, _STEP = 256, 128, 16
"""Slots of a tile that holds a window: these at most, and a multiple of that."""


@dataclass(frozen=True)
class Grid(Listed):
    """Positions as a grid read row by row, ``width`` to a row, cut into rectangles (rows, columns of the grid).

    ``room`` is the number of slots in tiles of queries and of keys, where a rectangle fills less than a tile. ``lead``
    are the rows and columns that the first rectangles lack, which then begin outside the grid; with ``room`` those at
    the ends of rows may reach beyond it too.
    """

    width: int
    query: tuple[int, int]
    key: tuple[int, int]
    room: tuple[int, int] | None = None
    lead: tuple[int, int] = (0, 0)

    def _tiles(self, pairs: Pairs, tile: Tile) -> Pairs:
        return pairs.image(self._tile(self.query, "x"), self._tile(self.key, "y"))

    def key_bounds(self, columns: int) -> str:
        """Which key tiles ``y`` hold a key of the call."""
        return f"y >= 0 and {self._corner(self.key, 'y', inside=True)} < n"

    def whole(self, columns: int) -> str:
        """Which key tiles ``y`` hold nothing but keys of the call."""
        height, width = self.key
        if height * width < columns or any(self._missing(self.key)) or self.width % width:
            return "false"
        return f"{self._corner(self.key, 'y')} + {(height - 1) * self.width + width - 1} < n"

    def query_bounds(self, rows: int, first: str) -> str:
        """Which query tiles ``x`` may hold a query of the call."""
        height, width = self.query
        last = (height - 1) * self.width + width - 1
        corner = self._corner(self.query, "x")
        return f"{corner} + {last} >= {first} and {corner} < {first} + n_q"

    def _per_row(self, shape: tuple[int, int]) -> int:
        return -(-(self.width + self._missing(shape)[1]) // shape[1])

    def _missing(self, shape: tuple[int, int]) -> tuple[int, int]:
        """The rows and columns that the first rectangles of a side lack."""
        return self.lead[0] % shape[0], self.lead[1] % shape[1]

    def _tile(self, shape: tuple[int, int], name: str) -> str:
        (height, width), (up, left) = shape, self._missing(shape)
        down, across = name, f"({name} mod {self.width})"
        if up:
            down = f"({name} + {self.width * up})"
        if left:
            across = f"({across} + {left})"
        return f"{self._per_row(shape)} * floor({down} / {self.width * height}) + floor({across} / {width})"

    def _corner(self, shape: tuple[int, int], name: str, inside: bool = False) -> str:
        """The first position of a rectangle; ``inside``: of what of it lies in the grid."""
        (height, width), (up, left), per_row = shape, self._missing(shape), self._per_row(shape)
        down, across = f"{self.width * height} * floor({name} / {per_row})", f"{width} * ({name} mod {per_row})"
        if up:
            down = f"max(0, {down} - {self.width * up})" if inside else f"{down} - {self.width * up}"
        if left:
            across = f"max(0, {across} - {left})" if inside else f"{across} - {left}"
        return f"{down} + {across}"

    def slots_around(self, side: int, low: int, high: int) -> range:
        """The slots of whole rows of tiles."""
        shape = (self.query, self.key)[side]
        up = self.width * self._missing(shape)[0]
        band, size = self.width * shape[0], self._per_row(shape) * self._room(side)
        return range((low + up) // band * size, ((high - 1 + up) // band + 1) * size)

    def places(self, side: int, slots: NDArray[np.int64], c: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """From the corner of the slot's tile row by row."""
        height, width = shape = (self.query, self.key)[side]
        per_row, (up, left) = self._per_row(shape), self._missing(shape)
        tile, inside = slots // self._room(side), slots % self._room(side)
        row = tile // per_row * height - up + inside // width
        column = tile % per_row * width - left + inside % width
        there = (inside < height * width) & (column >= 0) & (column < self.width)
        return np.where(there, self.width * row + column, EMPTY)

    def _room(self, side: int) -> int:
        height, width = (self.query, self.key)[side]
        return height * width if self.room is None else self.room[side]

    def block(self, tile: Tile) -> tuple[int, int, int] | None:
        """As many rows of the grid as tiles of queries and of keys fill alike."""
        if self.room is None or any(self._missing(shape)[0] for shape in (self.query, self.key)):
            return None
        height = lcm(self.query[0], self.key[0])
        query, key = (height // shape[0] * self._per_row(shape) for shape in (self.query, self.key))
        return self.width * height, query, key

    def cut_tiles(self, tiles: range, side: int) -> int:
        """A row of tiles; all where rectangles never fill one."""
        if self.room is not None:
            return most_tiles(tiles)
        return self._per_row((self.query, self.key)[side])

    def __str__(self) -> str:
        (a, b), (c, d) = self.query, self.key
        lead = f", begun {self.lead[0]} rows and {self.lead[1]} columns outside" if any(self.lead) else ""
        return f"grid(width {self.width}, queries {a} x {b}, keys {c} x {d}{lead})"


def proposals(part: Part, tile: Tile, grids: tuple[Rectangles, ...]) -> Proposals:
    """Windows into which a grid is cut, a tile each; and rectangles, where rows are as long as constants tell.

    These are constants by which positions are both divided and reduced.
    """
    own, cut = tile == CPU.tile and grids == CPU.grids, set()
    for width, (height, up), (across, left) in _windows(part.pred):
        query = _piece(height, across, _MOST_QUERIES if own else tile.rows)
        key = _piece(height, across, _MOST_KEYS if own else tile.columns)
        if query is not None and key is not None:
            areas = query[0] * query[1], key[0] * key[1]
            rows, columns = (-(-area // _STEP) * _STEP for area in areas) if own else (tile.rows, tile.columns)
            cut.add(width)
            yield Grid(width, query, key, (rows, columns), (up % height, left % across)), Tile(rows, columns)
    for width in (w for w in _widths(part.pred) if w not in cut):  # rectangles across windows are no better
        for query, key in grids:
            if width % query[1] == 0 and width % key[1] == 0:
                yield Grid(width, query, key), Tile(query[0] * query[1], key[0] * key[1])


def _piece(height: int, width: int, most: int) -> tuple[int, int] | None:
    """A window, or the largest part of its rows that divides it, with at most so many positions."""
    return next(((rows, width) for rows in range(height, 0, -1) if height % rows == 0 and rows * width <= most), None)


def _windows(pred: e.Node) -> list[tuple[int, tuple[int, int], tuple[int, int]]]:
    """Row lengths of grids, with the rows and columns of the windows into which they are cut, and what is added before.

    Of ``(q // width + added) // rows`` (or ``q // (width * rows)``) and ``(q % width + added) // columns``.
    """
    down: set[tuple[int, tuple[int, int]]] = set()
    across: set[tuple[int, tuple[int, int]]] = set()
    bands: set[int] = set()
    for node in contents.walk(pred):
        match node:
            case e.FloorDiv(inner, e.Int(size)):
                match _added(inner):
                    case e.FloorDiv(e.Var("q" | "k"), e.Int(width)), added:
                        down.add((width, (size, added)))
                    case e.Mod(e.Var("q" | "k"), e.Int(width)), added:
                        across.add((width, (size, added)))
                    case e.Var("q" | "k"), 0:
                        bands.add(size)
    down |= {(width, (band // width, 0)) for width, _ in across for band in bands if band > width and not band % width}
    return sorted((w, rows, columns) for w, rows in down for v, columns in across if v == w and w <= _MOST_WIDTH)


def _added(node: e.IntExpr) -> tuple[e.IntExpr, int]:
    """A sum with a constant as the two."""
    match node:
        case e.Add((inner, e.Int(value))) | e.Add((e.Int(value), inner)):
            return inner, value
    return node, 0


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
