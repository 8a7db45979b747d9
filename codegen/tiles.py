"""How large the tiles are that a kernel walks in, and what a caller may say of their layout."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Tile:
    """The size of a tile: query positions by keys."""

    rows: int
    columns: int

    def __str__(self) -> str:
        return f"{self.rows} x {self.columns}"


Rectangles = tuple[tuple[int, int], tuple[int, int]]
"""Grid rows by grid columns, of a tile of queries and of one of keys."""


@dataclass(frozen=True)
class TileSizes:
    """The tile of a target, and the rectangles that are tried where positions are a grid."""

    tile: Tile
    grids: tuple[Rectangles, ...]


LAYOUTS = ("auto", "identity")
"""The compiler's choice, or positions in their order."""

SEQUENCE = "sequence"
"""One pass of tiles each of which sees none behind it: what a correction of values wants, for it asks no caller."""

TILE = Tile(128, 64)
"""The tile of the C++ target, for every element type and head size."""

REASON = "the fastest or within 3 % of 64 x 64, 128 x 64 and 128 x 128 for head sizes 17 to 256 (Zen 5, 2026)"

CPU = TileSizes(TILE, (((4, 8), (4, 8)), ((4, 8), (2, 8)), ((8, 8), (4, 8)), ((8, 16), (8, 8))))
"""The C++ target: 32 queries fill its vector lanes."""

LINEAR = replace(CPU, tile=Tile(64, 64))
"""The same where weights are products of features."""

LINEAR_REASON = "full tiles go through states and cost next to nothing, so partial ones are kept small"


def square(tile: Tile) -> TileSizes:
    """A tile whose sizes are fixed, with rectangles of these sizes as near to squares as they come.

    >>> square(Tile(128, 64)).grids
    (((8, 16), (8, 8)),)
    """
    return TileSizes(tile, ((_rectangle(tile.rows), _rectangle(tile.columns)),))


def _rectangle(size: int) -> tuple[int, int]:
    height = 1 << ((size.bit_length() - 1) // 2)
    return height, size // height
