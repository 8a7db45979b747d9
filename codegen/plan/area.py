"""How many tiles a pass visits, and how many pairs they hold: by arithmetic on the sets, whatever the length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from attnspec.codegen.layouts.base import Layout, tiles_of
from attnspec.codegen.layouts.region import Tiles
from attnspec.codegen.tiles import Tile
from attnspec.relation.count import Piece, TooIrregular, count, row_counts, runs
from attnspec.relation.presburger import Pairs, TooHard, budget
from attnspec.relation.sizes import Sizes

_MOST_RESIDUES = 1024


@dataclass(frozen=True)
class Area:
    """Tiles visited, and the pairs that they hold (tiles at the borders of a call are cut).

    ``partial`` includes the tiles that are full only if inputs allow.
    """

    full: int
    partial: int
    computed: int
    masked: int
    """Those of ``computed`` for which the pattern is evaluated."""

    @property
    def tiles(self) -> int:
        """The tiles visited."""
        return self.full + self.partial

    def __add__(self, other: Area) -> Area:
        return Area(*(a + b for a, b in zip(self._all(), other._all(), strict=True)))

    def times(self, factor: int) -> Area:
        """The area of ``factor`` such things."""
        return Area(*(factor * a for a in self._all()))

    def _all(self) -> tuple[int, int, int, int]:
        return self.full, self.partial, self.computed, self.masked


def area(tiles: Tiles, layout: Layout, size: Tile, sizes: Sizes, h: int, b: int) -> Area:
    """The area of one head of a pass.

    Raises TooIrregular where the sets have too large a period to be counted.
    """
    total = Area(0, 0, 0, 0)
    for part, often in _parts(tiles, layout, size, sizes):
        total += _of_call(tiles, layout, size, part, h, b).times(often)
    return total


def _parts(tiles: Tiles, layout: Layout, size: Tile, sizes: Sizes) -> Iterator[tuple[Sizes, int]]:
    """Short calls that together visit the tiles of a long one, and how often each occurs.

    Where no pair leaves its block of the layout, blocks are alike but for those that a call cuts at its ends.
    """
    block = layout.block(size)
    if block is None or sizes.n <= 4 * block[0] or not _blocked(tiles, block[1], block[2]):
        yield sizes, 1
        return
    length, first = block[0], max(0, sizes.first)
    end = max(first, min(sizes.first + sizes.n_q, -(-sizes.n // length) * length))
    low, high = -(-first // length), min(end, sizes.n) // length
    if high <= low:
        yield sizes, 1
        return
    yield replace(sizes, n=length, n_q=length, m=None), high - low
    if first < low * length:  # the call begins inside a block: its last rows
        yield replace(sizes, n=length, n_q=low * length - first, aligned_end=True, m=None), 1
    if end > high * length and sizes.n > high * length:  # it ends inside one: its first rows and keys
        keys = min(sizes.n - high * length, length)
        yield replace(sizes, n=keys, n_q=end - high * length, aligned_end=False, m=None), 1


def _blocked(tiles: Tiles, rows: int, columns: int) -> bool:
    """Whether tiles lie in blocks of so many query and key tiles, the same ones in each, whatever the call's sizes."""
    inside = Pairs.read(f"floor(x / {rows}) = floor(y / {columns}) and x >= 0")
    later = Pairs.read(f"x >= {rows}")
    try:
        for kind in tiles.kinds:
            with budget(kind):
                if any(kind.depends_on(name) for name in ("n", "n_q", "m")) or not kind.within(inside):
                    return False
                if not kind.image(f"x + {rows}", f"y + {columns}").equals(kind.intersection(later)):
                    return False
    except TooHard:
        return False
    return True


def _of_call(tiles: Tiles, layout: Layout, size: Tile, sizes: Sizes, h: int, b: int) -> Area:
    total = Area(0, 0, 0, 0)
    for c, often in residues(layout, tiles.kinds, size, sizes):
        full, filled = _area(tiles.full, layout, size, sizes, h, b, c)
        some, masked = 0, 0
        for kind in (tiles.maybe, tiles.partial):
            more, held = _area(kind, layout, size, sizes, h, b, c)
            some, masked = some + more, masked + held
        total += Area(full, some, filled + masked, masked).times(often)
    return total


def residues(layout: Layout, sets: tuple[Pairs, ...], size: Tile, sizes: Sizes) -> Iterator[tuple[int, int]]:
    """One of each kind of residue of a layout, and how many of its kind there are."""
    if layout.residues == 1:
        yield 0, 1
        return
    if any(s.depends_on("c") for s in sets):
        if layout.residues > _MOST_RESIDUES:
            raise TooIrregular
        yield from ((c, 1) for c in range(layout.residues))
        return

    def kind(c: int) -> tuple[range, range]:
        return layout.query_slots(sizes, c, size.rows), layout.key_slots(sizes, c, size.columns)

    found = Counter(kind(c) for c in range(layout.residues))
    first = {kind(c): c for c in reversed(range(layout.residues))}
    yield from ((first[k], often) for k, often in found.items())


def _area(tiles: Pairs, layout: Layout, size: Tile, sizes: Sizes, h: int, b: int, c: int) -> tuple[int, int]:
    """How many tiles of a set a call visits, and how many pairs they hold."""
    rows = tiles_of(layout.query_slots(sizes, c, size.rows), size.rows)
    columns = tiles_of(layout.key_slots(sizes, c, size.columns), size.columns)
    if not rows or not columns:
        return 0, 0
    box = Pairs.read(f"{rows.start} <= x < {rows.stop} and {columns.start} <= y < {columns.stop}")
    with budget(tiles):
        inside = tiles.intersection(box).fix(c=c, **sizes.parameters(h, b))
        if inside.is_empty():
            return 0, 0
        pieces = inside.pieces()
    turned = tuple(piece.transpose() for piece in pieces)
    number = count(pieces, len(rows), rows.start)
    short_rows = short(rows, layout, 0, size, sizes, c)
    short_columns = short(columns, layout, 1, size, sizes, c)
    # All tiles as if they were whole, less what is missing in rows and in columns, plus what both counted as missing.
    held = number * size.rows * size.columns
    held -= size.columns * _weighted(pieces, short_rows) + size.rows * _weighted(turned, short_columns)
    if short_rows and short_columns:
        low, high = min(short_rows), max(short_rows)
        for run in runs(pieces, high - low + 1, low):
            for i, first, last in zip(run.x.tolist(), run.low.tolist(), run.high.tolist(), strict=True):
                if i in short_rows:
                    inside_run = (j for j in short_columns if first <= j <= last and (j - first) % run.step == 0)
                    held += short_rows[i] * sum(short_columns[j] for j in inside_run)
    # The same for the number of tiles: those without any query or key are not visited.
    empty_rows = {i: 1 for i, missing in short_rows.items() if missing == size.rows}
    empty_columns = {j: 1 for j, missing in short_columns.items() if missing == size.columns}
    number -= _weighted(pieces, empty_rows) + _weighted(turned, empty_columns)
    for j in empty_columns:
        with budget(tiles):
            column = inside.intersection(Pairs.read(f"y = {j}")).pieces()
        number += _weighted(column, empty_rows)
    return number, held


def short(tiles: range, layout: Layout, side: int, size: Tile, sizes: Sizes, c: int) -> dict[int, int]:
    """The tiles of queries (``side`` 0) or keys (1) that hold fewer positions than fit, and by how many.

    They lie near the ends.
    """
    edge, most = layout.cut_tiles(tiles, side), size.columns if side else size.rows
    positions = layout.key_positions if side else layout.query_positions
    near = sorted({*tiles[:edge], *tiles[-edge:]})
    return {i: most - n for i in near if (n := len(positions(i, sizes, c, most))) < most}


def _weighted(pieces: tuple[Piece, ...], weights: dict[int, int]) -> int:
    if not weights:
        return 0
    x = np.array(sorted(weights), dtype=np.int64)
    return sum(int(n) * weights[int(i)] for i, n in zip(x, row_counts(pieces, x), strict=True))
