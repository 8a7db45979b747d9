"""From a set of pairs and the tiles that a layout cuts it into to a pass: the loops over them."""

from __future__ import annotations

import re
from functools import lru_cache

from attnspec.codegen.layouts.base import Layout
from attnspec.codegen.layouts.region import Region, Tiles
from attnspec.codegen.plan.plan import Pass, Sweep
from attnspec.codegen.plan.tile_tests import NO_TESTS, Tests
from attnspec.codegen.tiles import Tile
from attnspec.relation.loops import Loops
from attnspec.relation.presburger import Pairs, TooHard, budget

UNWIELDY = 2000
"""Nodes from which on a loop nest is replaced by a table of tiles that is built for each length."""
MOST_VISITS = 12
"""Places in a loop nest where a tile is visited: each is a copy of the tile's code. With more, a table is read."""


def make_pass(region: Region, layout: Layout, size: Tile, cut: Tiles, align: str, tests: Tests = NO_TESTS) -> Pass:
    """The pass of a region: the loops over its tiles in both directions, cut at the call's rows and keys.

    Where ``tests`` bound them, loops keep between the tiles ``lo`` and ``hi``, which the kernel finds in the inputs.
    """
    return Pass(
        **vars(region),
        layout=layout,
        tile=size,
        cut=cut,
        tests=tests,
        forward=_sweep(cut, layout, size, align, False, tests.bounded),
        backward=_sweep(cut, layout, size, align, True, tests.bounded),
    )


def _sweep(cut: Tiles, layout: Layout, size: Tile, align: str, transposed: bool, bounded: bool) -> Sweep:
    """The loops over the tiles of one query tile (``transposed``: of one key tile)."""
    keys = layout.key_bounds(size.columns)
    rows = layout.query_bounds(size.rows, "n - n_q" if align == "end" else "0")
    kinds: tuple[Pairs, ...] = cut.kinds
    outer, inner, bounds, beyond = "i", "j", keys, _rename(rows, "x", "i")
    if transposed:
        kinds = tuple(tiles.transpose() for tiles in kinds)
        outer, inner, bounds, beyond = "j", "i", _rename(rows, "x", "y"), _rename(keys, "y", "j")
    known = f"n >= 1 and n_q >= 1 and 0 <= h < heads and kv_heads >= 1 and 0 <= b < batch and {layout.known()}"
    box = Pairs.read(f"{bounds} and lo <= y <= hi" if bounded else bounds)
    return Sweep(*(_loops(tiles.intersection(box), outer, inner, f"{known} and {beyond}") for tiles in kinds))


def _rename(text: str, old: str, new: str) -> str:
    """A condition with another name for a variable."""
    return re.sub(rf"\b{old}\b", new, text)


def _loops(tiles: Pairs, outer: str, inner: str, known: str) -> Loops | None:
    try:
        with budget(tiles):
            loops = tiles.loops(outer, inner, known)
    except TooHard:
        return None
    return loops if loops.size <= UNWIELDY else None


@lru_cache(maxsize=64)
def ragged(pass_: Pass, align: str, transposed: bool = False) -> Sweep:
    """The loops of a pass for kernels that mask nothing in full tiles: none of these may reach beyond the keys.

    A full tile that does counts as partial. Loops keep between the tiles ``lo`` and ``hi``, so that a kernel can walk a
    part of them (a window found in sorted inputs, a share of the keys). Remembered: a kernel that takes too many
    registers is written again with other tiles, the others as they were.
    """
    found = _sweep(_whole(pass_), pass_.layout, pass_.tile, align, transposed, bounded=True)
    if found.tabled or sum(loops.visits for loops in (found.full, found.maybe, found.partial) if loops) > MOST_VISITS:
        return Sweep(None, None, None)
    return found


def _whole(pass_: Pass) -> Tiles:
    """The tiles of a pass; those that may be cut short by the last key count as partial."""
    cut, nothing = pass_.cut, Pairs.read("false")
    box = Pairs.read(pass_.layout.whole(pass_.tile.columns))
    try:
        with budget(*cut.kinds):
            full, maybe = cut.full.intersection(box), cut.maybe.intersection(box)
            rest = cut.full.difference(box).union(cut.maybe.difference(box))
            return Tiles(full, maybe, cut.partial.union(rest), cut.proven)
    except TooHard:
        return Tiles(nothing, nothing, cut.full.union(cut.maybe).union(cut.partial), False)
