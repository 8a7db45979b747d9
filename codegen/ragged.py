"""Loops for kernels that mask nothing in full tiles: there, the last tile of keys must not reach beyond the keys.

A full tile that does is counted as partial. Loops keep between the tiles ``lo`` and ``hi``, so that a kernel can walk a
part of them (a window found in sorted inputs, a share of the keys).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from attnspec.codegen.plan.tiling import Tiles, rename, sweep
from attnspec.relation.presburger import Pairs, TooHard, budget

if TYPE_CHECKING:
    from attnspec.codegen.plan.plan import Pass, Sweep

MOST_VISITS = 12
"""Places in a loop nest where a tile is visited: each is a copy of the tile's code. With more, a table is read."""


@lru_cache(maxsize=64)
def ragged(item: Pass, align: str, transposed: bool = False) -> Sweep:
    """The loops of a pass over whole full tiles, tiles that inputs may make full, and all others.

    Remembered: a kernel that takes too many registers is written again with other tiles, the others as they were.
    """
    layout, size = item.layout, item.tile
    first = "n - n_q" if align == "end" else "0"
    keys, rows = layout.key_bounds(size.columns), layout.query_bounds(size.rows, first)
    known = f"n >= 1 and n_q >= 1 and 0 <= h < heads and kv_heads >= 1 and 0 <= b < batch and {layout.known()}"
    cut = _whole(item)
    if transposed:
        cut = Tiles(cut.full.transpose(), cut.maybe.transpose(), cut.partial.transpose(), cut.proven)
        bounds, outer, known = rename(rows, "x", "y"), "j", f"{known} and {rename(keys, 'y', 'j')}"
    else:
        bounds, outer, known = keys, "i", f"{known} and {rename(rows, 'x', 'i')}"
    found = sweep(cut, bounds, outer, "i" if outer == "j" else "j", known, bounded=True)
    if found.tabled or sum(loops.visits for loops in (found.full, found.maybe, found.partial) if loops) > MOST_VISITS:
        return type(found)(None, None, None)
    return found


def _whole(item: Pass) -> Tiles:
    """The tiles of a pass; those that may be cut short by the last key count as partial."""
    cut, nothing = Tiles(item.full, item.maybe, item.partial, item.proven), Pairs.read("false")
    box = Pairs.read(item.layout.whole(item.tile.columns))
    try:
        with budget(cut.full, cut.maybe, cut.partial):
            full, maybe = cut.full.intersection(box), cut.maybe.intersection(box)
            rest = cut.full.difference(box).union(cut.maybe.difference(box))
            return Tiles(full, maybe, cut.partial.union(rest), cut.proven)
    except TooHard:
        return Tiles(nothing, nothing, cut.full.union(cut.maybe).union(cut.partial), False)
