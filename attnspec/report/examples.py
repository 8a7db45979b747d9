"""Patterns with inputs, shown with those that are given, or with examples: the same whenever the sizes are the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from attnspec.analysis.picture import EMPTY, FULL, PARTIAL
from attnspec.codegen.cost.counted import TooMany
from attnspec.relation.sizes import Sizes, resized
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.spec import Spec

if TYPE_CHECKING:
    from attnspec.codegen.tiles import Tile
    from attnspec.relation.relation import Relation
    from attnspec.runtime.dense.counts import Rows
    from attnspec.runtime.prepare.given import Given

_MOST_WORK = 1e9
"""Operations on single pairs, about a second of numpy."""
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Seen:
    """One head of batch entry 0, looked at pair by pair with an example's inputs.

    ``tiles`` of the plan's size, over positions in their order, hold a live pair; all pairs of ``full`` of them live.
    """

    h: int
    cells: NDArray[np.uint8]
    pairs: int
    tiles: int
    full: int


@dataclass(frozen=True)
class Look:
    """What an example shows: of the first heads, at a shorter length where all would be too much work."""

    example: Given
    seen: tuple[Seen, ...]
    same: bool
    """Whether all heads are like the one that was looked at."""

    @property
    def sizes(self) -> Sizes:
        """The sizes of the call."""
        return self.example.sizes


def look(spec: Spec, sizes: Sizes, tile: Tile, most: int, given: Given | None = None) -> Look:
    """Look at a pattern pair by pair with example inputs; at a shorter length where the whole would be too much work.

    With ``given`` inputs only at their own length. Raises TooMany where there is no length that is short enough.
    """
    from attnspec.runtime.prepare.given import examples

    length = sizes.n if sizes.m is None else sizes.m
    rounds = 1 if spec.order is None else spec.order.rounds
    n = length
    while n:
        call = sizes if n == length else resized(spec, sizes, n)
        if call.n * call.n_q * rounds**2 <= _MOST_WORK:
            shown = examples(spec, call) if given is None else given
            rows = rows_of(spec, shown)
            work = call.n * call.n_q * rounds**2 * _work(rows)
            if work <= _MOST_WORK:
                differ = rows.reads("h")
                heads = range(min(sizes.heads, max(1, int(_MOST_WORK // work))) if differ else 1)
                return Look(shown, tuple(_head(rows, h, tile, most) for h in heads), not differ)
        if given is not None:
            break
        n //= 2
    raise TooMany("looking at its pairs would take too long")


def draw(spec: Spec, shown: Given, h: int, most: int) -> NDArray[np.uint8]:
    """The cells of one head with example inputs. Raises TooMany where there are too many pairs to look at."""
    from attnspec.codegen.tiles import TILE

    s, rows = shown.sizes, rows_of(spec, shown)
    rounds = 1 if spec.order is None else spec.order.rounds
    if s.n * s.n_q * rounds**2 * _work(rows) > 10 * _MOST_WORK:
        raise TooMany("looking at its pairs would take too long")
    return _head(rows, h, TILE, most).cells


def drawn_tiles(relation: Relation, shown: Given, h: int, most: int) -> NDArray[np.uint8]:
    """What a kernel does in each cell, as :func:`draw` has it: FULL tiles, PARTIAL ones, or nothing. Raises TooMany."""
    from attnspec.codegen.cost.visited import visited
    from attnspec.codegen.plan.choose import plan
    from attnspec.runtime.prepare.given import contents_of, missing

    spec, s = relation.spec, shown.sizes
    contents = contents_of(spec, shown)
    if contents is None:
        raise TooMany(f"without {missing(spec, shown)} there is no knowing its tiles")
    found = visited(plan(relation, None, "auto", scalars=s.scalars), s, h, 0, contents)
    height, width = max(1, -(-s.n_q // most)), max(1, -(-s.n // most))
    by_rows = np.maximum.reduceat(found, np.arange(0, s.n_q, height), axis=0)
    cells: NDArray[np.uint8] = np.maximum.reduceat(by_rows, np.arange(0, s.n, width), axis=1)
    return cells


def _work(rows: Rows) -> int:
    """About how many operations it takes to look at a pair."""

    def visit(node: e.Node) -> int:
        cost = 1
        if isinstance(node, (e.Read, e.Flag)):
            cost = 12 if {"q", "k"} <= contents.free(node) else 1
        elif isinstance(node, e.Among):
            cost = 4 * rows.arrays[node.name].shape[-1]
        return cost + sum(visit(child) for child in node.children())

    return 4 + sum(visit(branch.pred) for branch in rows.spec.branches)


def rows_of(spec: Spec, shown: Given) -> Rows:
    """The pattern with an example's inputs, ready to be looked at."""
    from attnspec.runtime.dense.counts import Rows
    from attnspec.runtime.prepare.given import contents_of, missing

    contents = contents_of(spec, shown)
    if contents is None:
        raise TooMany(f"without {missing(spec, shown)} there is no looking at its pairs")
    return Rows(spec, shown.sizes, contents.arrays, contents.slots)


def _head(rows: Rows, h: int, tile: Tile, most: int) -> Seen:
    """One head, in blocks of rows."""
    s = rows.sizes
    height, width = max(1, -(-s.n_q // most)), max(1, -(-s.n // most))
    some = np.zeros((-(-s.n_q // height), -(-s.n // width)), dtype=bool)
    every = np.ones_like(some)
    first_tile = s.first // tile.rows
    tiles = ((s.first + s.n_q - 1) // tile.rows - first_tile + 1, -(-s.n // tile.columns))
    touched, full = np.zeros(tiles, dtype=bool), np.ones(tiles, dtype=bool)
    pairs = 0
    for block in blocks(s, 1 if rows.spec.order is None else rows.spec.order.rounds):
        counts = rows.counts(h, 0, block)
        pairs += sum(int(c.sum()) for c in counts)
        live = np.logical_or.reduce([c > 0 for c in counts])
        at = np.arange(block.start, block.stop)
        for number, size, any_, all_ in (
            (at // height, width, some, every),
            ((at + s.first) // tile.rows - first_tile, tile.columns, touched, full),
        ):
            edges = np.arange(0, s.n, size)
            np.logical_or.at(any_, number, np.logical_or.reduceat(live, edges, axis=1))
            np.logical_and.at(all_, number, np.logical_and.reduceat(live, edges, axis=1))
    cells = np.where(every, FULL, np.where(some, PARTIAL, EMPTY)).astype(np.uint8)
    return Seen(h, cells, pairs, int(touched.sum()), int((touched & full).sum()))


def blocks(sizes: Sizes, rounds: int) -> Iterator[slice]:
    """Blocks of rows whose pairs (of slots, with so many rounds of an order) are looked at together."""
    step = max(1, min(sizes.n_q, _BLOCK // max(1, sizes.n * rounds**2)))
    for start in range(0, sizes.n_q, step):
        yield slice(start, min(start + step, sizes.n_q))
