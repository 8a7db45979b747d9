"""From a set of pairs and a layout to a pass: prove which tiles are full, partial or empty, and write their loops."""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.codegen.layouts.comb import Comb
from attnspec.codegen.layouts.residue import Layout
from attnspec.codegen.plan.plan import Pass, Sweep
from attnspec.codegen.plan.tile_tests import NO_TESTS, Tests
from attnspec.codegen.tiles import Tile
from attnspec.relation.loops import Loops
from attnspec.relation.presburger import Pairs, TooHard, budget
from attnspec.spec import expr as e

UNWIELDY = 2000
"""Nodes from which on a loop nest is replaced by a table of tiles that is built for each length."""


@dataclass(frozen=True, eq=False)
class Region:
    """Pairs that one pass computes: as a predicate, and as the sets of those that are possible and certain."""

    title: str
    pred: e.Pred
    pairs: Pairs
    sure: Pairs
    branch: int = 0
    times: int = 1


@dataclass(frozen=True, eq=False)
class Tiles:
    """Tiles of a region in a layout: full ones, those that are full if the inputs allow, and partial ones."""

    full: Pairs
    maybe: Pairs
    partial: Pairs
    proven: bool


def tiles(region: Region, layout: Layout, size: Tile) -> Tiles:
    """Tell full from partial tiles.

    With ``T`` the map from pairs to tiles: touched tiles are ``T(R)``; full ones are touched and not in ``T`` of the
    complement of R; the rest are partial. All in the unbounded grid, so that one plan serves every length.
    """
    nothing, universe = Pairs.read("false"), layout.universe()
    if isinstance(layout, Comb):
        return _comb(region, layout, size)

    def cut(pairs: Pairs) -> Pairs:
        return layout.tiles(pairs, size.rows, size.columns)

    try:
        with budget(region.pairs):
            touched = cut(region.pairs)
    except TooHard:
        everything = Pairs.read("y >= 0")
        return Tiles(nothing, nothing, everything, False)
    try:
        with budget(region.pairs, region.sure, touched):
            possible = touched.difference(cut(universe.difference(region.pairs)))
            if region.sure is region.pairs:
                return Tiles(possible, nothing, touched.difference(possible), True)
            full = touched.difference(cut(universe.difference(region.sure)))
            return Tiles(full, possible.difference(full), touched.difference(possible), True)
    except TooHard:
        return Tiles(nothing, nothing, touched, False)


def _comb(region: Region, layout: Comb, size: Tile) -> Tiles:
    """The same where the set of slots follows from the predicate. Raises TooHard."""
    with budget(region.pairs):
        slots = layout.slots(region.pred)
    with budget(slots):
        touched = slots.tiles(size.rows, size.columns)
        full = touched.difference(layout.all_slots().difference(slots).tiles(size.rows, size.columns))
        return Tiles(full, Pairs.read("false"), touched.difference(full), True)


def make_pass(region: Region, layout: Layout, size: Tile, cut: Tiles, align: str, tests: Tests = NO_TESTS) -> Pass:
    """The pass of a region: the loops over its tiles in both directions, cut at the call's rows and keys.

    Where ``tests`` bound them, loops keep between the tiles ``lo`` and ``hi``, which the kernel finds in the inputs.
    """
    bounded = tests.bounded
    first = "n - n_q" if align == "end" else "0"
    keys, rows = layout.key_bounds(size.columns), layout.query_bounds(size.rows, first)
    known = f"n >= 1 and n_q >= 1 and 0 <= h < heads and kv_heads >= 1 and 0 <= b < batch and {layout.known()}"
    forward = sweep(cut, keys, "i", "j", f"{known} and {rename(rows, 'x', 'i')}", bounded)
    turned = Tiles(cut.full.transpose(), cut.maybe.transpose(), cut.partial.transpose(), cut.proven)
    backward = sweep(turned, rename(rows, "x", "y"), "j", "i", f"{known} and {rename(keys, 'y', 'j')}", bounded)
    return Pass(
        region.title,
        region.branch,
        region.times,
        region.pred,
        region.pairs,
        region.sure,
        layout,
        size,
        cut.full,
        cut.maybe,
        cut.partial,
        cut.proven,
        tests,
        forward,
        backward,
    )


def rename(text: str, old: str, new: str) -> str:
    """A condition with another name for a variable."""
    import re

    return re.sub(rf"\b{old}\b", new, text)


def sweep(cut: Tiles, bounds: str, outer: str, inner: str, known: str, bounded: bool) -> Sweep:
    """The loops over the tiles of one outer tile within ``bounds``, and if ``bounded`` from ``lo`` to ``hi``.

    ``known`` is what holds for the parameters and the outer tile.
    """
    box = Pairs.read(f"{bounds} and lo <= y <= hi" if bounded else bounds)
    return Sweep(
        *(_loops(tiles.intersection(box), outer, inner, known) for tiles in (cut.full, cut.maybe, cut.partial))
    )


def _loops(tiles: Pairs, outer: str, inner: str, known: str) -> Loops | None:
    try:
        with budget(tiles):
            loops = tiles.loops(outer, inner, known)
    except TooHard:
        return None
    return loops if loops.size <= UNWIELDY else None
