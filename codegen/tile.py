"""From a relation to a plan: prove which tiles are full, partial or empty, and write the loops that visit them."""

from __future__ import annotations

from attnspec.codegen.plan import UNWIELDY, ClassPlan, Plan, Sweep, Tile
from attnspec.loops import Loops
from attnspec.presburger import Pairs, TooHard, budget
from attnspec.relation import HeadClass, Relation


def tile(relation: Relation, size: Tile) -> Plan:
    """The plan of a relation for tiles of a given size.

    With ``T`` the map from pairs to tiles: touched tiles are ``T(R)``; full ones are touched and not in ``T`` of the
    complement of R; the rest are partial. All in the unbounded grid, so that one plan serves every length; loops are
    cut at the call's rows and keys.
    """
    return Plan(relation, size, tuple(_class(relation, item, size) for item in relation.classes))


def _class(relation: Relation, item: HeadClass, size: Tile) -> ClassPlan:
    nothing = Pairs.read("false")
    try:
        with budget(item.pairs):
            touched = item.pairs.tiles(size.rows, size.columns)
    except TooHard:
        touched = Pairs.read("y >= 0")
    proven = True
    try:
        with budget(item.pairs, touched):
            missing = Pairs.read("y >= 0").difference(item.pairs).tiles(size.rows, size.columns)
            full = touched.difference(missing)
            partial = touched.difference(full)
    except TooHard:
        full, partial, proven = nothing, touched, False
    keys = f"y >= 0 and {size.columns} * y < n"
    first = "n - n_q" if relation.spec.align == "end" else "0"
    rows = f"{size.rows} * x + {size.rows - 1} >= {first} and {size.rows} * x < {first} + n_q"
    known = "n >= 1 and n_q >= 1 and 0 <= h < heads and kv_heads >= 1 and 0 <= b < batch"
    has_row = rows.replace("x", "i")
    forward = _sweep(full, partial, Pairs.read(keys), "i", "j", f"{known} and {has_row}")
    has_key = f"j >= 0 and {size.columns} * j < n"
    transposed = full.transpose(), partial.transpose()
    backward = _sweep(*transposed, Pairs.read(rows).transpose(), "j", "i", f"{known} and {has_key}")
    return ClassPlan(item.heads, full, partial, proven, forward, backward)


def _sweep(full: Pairs, partial: Pairs, bounds: Pairs, outer: str, inner: str, known: str) -> Sweep:
    both = (_loops(tiles.intersection(bounds), outer, inner, known) for tiles in (full, partial))
    return Sweep(*both)


def _loops(tiles: Pairs, outer: str, inner: str, known: str) -> Loops | None:
    try:
        with budget(tiles):
            loops = tiles.loops(outer, inner, known)
    except TooHard:
        return None
    return loops if loops.size <= UNWIELDY else None
