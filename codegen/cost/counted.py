"""What inputs leave of a pattern: the tiles that a kernel visits for them, and the live pairs in these, one by one.

A kernel asks inputs what they say of whole tiles before it visits them (:mod:`attnspec.codegen.plan.tile_tests`); so
does this, and then evaluates the pattern in the tiles that are left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from attnspec.codegen.layouts.base import Layout
from attnspec.codegen.plan.area import Area
from attnspec.codegen.plan.plan import Pass
from attnspec.codegen.plan.table import table as listed
from attnspec.errors.diagnostic import AttnspecError
from attnspec.relation.sizes import Sizes
from attnspec.spec import expr as e
from attnspec.spec.arrays import runs
from attnspec.spec.evaluate import holds, table, value_of
from attnspec.spec.parts import Branch
from attnspec.spec.spec import Spec

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_TILES = 100_000
"""Tiles to look at: half a minute or so."""
_FAR = 1 << 40


class TooMany(AttnspecError):
    """There is too much to look at it one by one; the message says what."""


@dataclass(frozen=True, eq=False)
class Contents:
    """The inputs of a call as core expressions read them, by name; ``slots`` are the positions of a computed order.

    ``slots`` is (batch, heads, rounds * n), None without an order.
    """

    arrays: Mapping[str, NDArray[Any]]
    slots: NDArray[np.int64] | None = None

    def tables(self) -> dict[str, NDArray[Any]]:
        """What expressions read, with the runs of everything that is sorted."""
        found = {table(name): array for name, array in self.arrays.items()}
        if self.slots is not None:
            first, last = runs(self.arrays["order.bucket"])
            found |= {table("order.bucket.first"): first, table("order.bucket.last"): last}
        return found


@dataclass(frozen=True)
class Looked:
    """What is known of a pass: the pairs that its partial tiles hold, and its full tiles (i, j) by residue.

    These are None where inputs do not decide which they are: the plan knows them.
    """

    full: Mapping[int, list[tuple[int, int]]] | None
    masked: int


@dataclass(frozen=True)
class Counted:
    """One head of one batch entry, as :class:`attnspec.codegen.cost.cost.HeadCost` has it."""

    pairs: int
    area: Area
    visited: int
    clauses: tuple[int, ...]
    passes: tuple[Looked, ...]


def counted(spec: Spec, passes: tuple[Pass, ...], sizes: Sizes, h: int, b: int, contents: Contents) -> Counted:
    """Look at the tiles that a kernel visits for one head. Raises TooMany where they are too many."""
    env: dict[str, Any] = {**sizes.parameters(h, b), **contents.tables()}
    order = None if contents.slots is None else contents.slots[b, h]
    pairs, visited, total, left = 0, 0, Area(0, 0, 0, 0), _MOST_TILES
    branches = spec.branches
    clauses = [[0] * len(branch.attend) for branch in branches]
    looked: list[Looked] = []
    for item in passes:
        held, masked = {c: list[tuple[int, int]]() for c in range(item.layout.residues)}, 0
        for c in range(item.layout.residues):
            for i, j, full in visits(item, sizes, h, b, c, env):
                left -= 1
                if left < 0:
                    raise TooMany(f"the inputs leave more than {_MOST_TILES:,} tiles: too many to look at one by one")
                q = item.layout.query_positions(i, sizes, c, item.tile.rows)[:, None]
                k = item.layout.key_positions(j, sizes, c, item.tile.columns)[None, :]
                size, here = q.size * k.size, {**env, **_places(item.layout, order, q, k)}
                live = size if full else int(np.broadcast_to(holds(item.pred, here), (q.size, k.size)).sum())
                pairs += item.times * live
                total += Area(int(full), int(not full), size, 0 if full else size)
                if full:
                    held[c].append((i, j))
                else:
                    masked += size
                visited += item.tile.rows * item.tile.columns
                _add_clauses(clauses[item.branch], branches[item.branch], live, here, (q.size, k.size))
        looked.append(Looked(held, masked))
    return Counted(pairs, total, visited, tuple(n for counts in clauses for n in counts), tuple(looked))


def _add_clauses(counts: list[int], branch: Branch, live: int, env: Mapping[str, Any], shape: tuple[int, int]) -> None:
    """The pairs of a tile that each ``attend`` line has by itself, inside the ``within`` lines."""
    if len(counts) == 1:
        counts[0] += live
        return
    inside = np.broadcast_to(np.bool_(True), shape)
    for clause in branch.within if counts else ():
        inside = inside & holds(clause.pred, env)
    for number, clause in enumerate(branch.attend):
        counts[number] += int((inside & holds(clause.pred, env)).sum())


def _places(layout: Layout, order: NDArray[np.int64] | None, q: Any, k: Any) -> dict[str, Any]:
    """Positions by name; in a computed order those that stand in the slots."""
    if layout.order is None or order is None:
        return {"q": q, "k": k}
    return {"q": order[q], "k": order[k], "q_slot": q, "k_slot": k}


def visits(item: Pass, sizes: Sizes, h: int, b: int, c: int, env: Mapping[str, Any]) -> Iterator[tuple[int, int, bool]]:
    """The tiles (i, j) that the forward pass visits, and whether each is full."""
    sweep, rows = item.forward, item.query_tiles(sizes, c)
    kinds = ((sweep.full, 0), (sweep.maybe, 1), (sweep.partial, 2))
    lists = listed(item, sizes, h, b, False) if sweep.tabled else None
    for row, i in enumerate(rows):
        q = item.layout.query_positions(i, sizes, c, item.tile.rows)
        if not q.size:
            continue
        low, high = _bounds(item, env, c, int(q[0]), int(q[-1]))
        if lists is not None:
            found = [(j, 0 if full else 1) for j, full in lists.row(row) if low <= j <= high]
        else:
            at = {**sizes.parameters(h, b), "c": c, "i": i, "lo": low, "hi": high}
            found = [(j, kind) for loops, kind in kinds if loops is not None for j in loops.points(at)]
        for j, kind in found:
            k = item.layout.key_positions(j, sizes, c, item.tile.columns)
            if k.size and low <= j <= high:
                told = _told(item, env, q, k)
                if told is not None:
                    yield i, j, kind == 0 or (kind == 1 and told)


def _bounds(item: Pass, env: Mapping[str, Any], c: int, first: int, last: int) -> tuple[int, int]:
    """Between which key tiles the runs of the queries from ``first`` to ``last`` lie, as sorted inputs tell."""
    low, high, step = -_FAR, _FAR, item.layout.residues
    for run in item.tests.runs:
        if run.atom not in item.tests.required:
            continue
        ends = []
        for name, at in (("first", first), ("last", last)):
            value, inside = value_of(e.Read(f"{run.query.name}.{name}", run.query.indices), _at(item, env, at, at))
            ends.append(int(value) if bool(inside) else None)
        if ends[0] is not None:
            low = max(low, -((c - ends[0]) // step) // item.tile.columns)
        if ends[1] is not None:
            high = min(high, (ends[1] - c) // step // item.tile.columns)
    here = {**env, "q_first": first, "q_last": last}
    if not bool(holds(item.tests.query_live, here)):
        return low, low - 1
    for bounds in item.tests.key_limits:
        if bounds.low is not None:
            low = max(low, (int(value_of(bounds.low, here)[0]) - c) // step // item.tile.columns)
        if bounds.high is not None:
            high = min(high, (int(value_of(bounds.high, here)[0]) - c) // step // item.tile.columns)
    return low, high


def _told(item: Pass, env: Mapping[str, Any], q: NDArray[np.int64], k: NDArray[np.int64]) -> bool | None:
    """Whether inputs tell that a tile is full where the sets leave it open; None where they tell that it is empty."""
    tests = item.tests
    every = tests.whole
    for atom in tests.blocks:
        true = bool(holds(atom, _at(item, env, int(q[0]), int(k[0]))))
        if not true and atom in tests.required:
            return None
        every = every and true
    ends = {"q_first": int(q[0]), "q_last": int(q[-1]), "k_first": int(k[0]), "k_last": int(k[-1])}
    if not bool(holds(tests.live, {**env, **ends})):
        return None
    every = every and bool(holds(tests.every, {**env, **ends}))
    corners = list(product({int(q[0]), int(q[-1])}, {int(k[0]), int(k[-1])}))
    return every and all(bool(holds(run.atom, _at(item, env, x, y))) for run in tests.runs for x, y in corners)


def _at(item: Pass, env: Mapping[str, Any], q: int, k: int) -> dict[str, Any]:
    names = ("q", "k") if item.layout.order is None else ("q_slot", "k_slot")
    return {**env, names[0]: q, names[1]: k}
