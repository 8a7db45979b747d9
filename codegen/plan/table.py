"""Tiles as lists, for plans whose loops would be unwieldy: built for one length, from the sets, never from pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from attnspec.codegen.plan.plan import Pass, Plan
from attnspec.relation.count import runs
from attnspec.relation.presburger import PARAMETERS, Pairs, budget
from attnspec.relation.sizes import Sizes

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Table:
    """The tiles of every outer tile, as int64 arrays.

    Outer tile number r has entries ``start[r] .. start[r + 1]`` of ``tiles``; the first ``fulls[r]`` of them are full.
    """

    start: NDArray[np.int64]
    fulls: NDArray[np.int64]
    tiles: NDArray[np.int64]

    def row(self, r: int) -> Iterator[tuple[int, bool]]:
        """The tiles of outer tile number r, and whether each is full."""
        for at in range(self.start[r], self.start[r + 1]):
            yield int(self.tiles[at]), bool(at - self.start[r] < self.fulls[r])


def table(pass_: Pass, sizes: Sizes, h: int, b: int, transposed: bool) -> Table:
    """The tiles of one head in a pass of one residue: per query tile (or per key tile), full ones first.

    Raises TooIrregular where the sets have too large a period to be listed.
    """
    queries, keys = pass_.query_tiles(sizes), pass_.key_tiles(sizes)
    box = Pairs.read(f"{queries.start} <= x < {queries.stop} and {keys.start} <= y < {keys.stop}")
    outer = keys if transposed else queries
    rows, tiles, kinds = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for kind, tile_set in ((0, pass_.cut.full), (1, pass_.cut.maybe), (1, pass_.cut.partial)):
        with budget(tile_set, patient=True):  # the plan is chosen: a call cannot do without its tables
            bounded = tile_set.intersection(box).fix(**sizes.parameters(h, b))
            pieces = (bounded.transpose() if transposed else bounded).pieces()
        for run in runs(pieces, len(outer), outer.start):
            lengths = (run.high - run.low) // run.step + 1
            ends = np.cumsum(lengths)
            within = np.arange(ends[-1], dtype=np.int64) - np.repeat(ends - lengths, lengths)
            rows.append(np.repeat(run.x - outer.start, lengths))
            tiles.append(np.repeat(run.low, lengths) + within * run.step)
            kinds.append(np.full(len(within), kind, dtype=np.int64))
    row, tile, kind_of = map(np.concatenate, (rows, tiles, kinds))
    order = np.lexsort((tile, kind_of, row))
    start = np.zeros(len(outer) + 1, dtype=np.int64)
    np.cumsum(np.bincount(row, minlength=len(outer)), out=start[1:])
    fulls = np.bincount(row[kind_of == 0], minlength=len(outer)).astype(np.int64)
    return Table(start, fulls, tile[order])


def tables(made: Plan, pass_: Pass, sizes: Sizes, transposed: bool) -> tuple[list[Table], NDArray[np.int64]]:
    """The tables of all heads in a pass, and which of them each head reads, (batch, heads); -1 where the pass has none.

    Heads that share a set of tiles share a table.
    """
    matter = [name for name in PARAMETERS if any(tiles.depends_on(name) for tiles in pass_.cut.kinds)]
    known: dict[tuple[int | None, ...], int] = {}
    found: list[Table] = []
    which = np.full((sizes.batch, sizes.heads), -1, dtype=np.int64)
    for b in range(sizes.batch):
        for h in range(sizes.heads):
            if pass_ in made.of_head(h).passes:
                values = sizes.parameters(h, b)
                key = tuple(values.get(name) for name in matter)
                if key not in known:
                    known[key] = len(found)
                    found.append(table(pass_, sizes, h, b, transposed))
                which[b, h] = known[key]
    return found, which
