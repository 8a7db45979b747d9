"""What ranks send one another for the parts that they compute, in which step, in positions and in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from attnspec.codegen.ranks.distinct import Wanted, distinct, numbered
from attnspec.codegen.ranks.exact import Counts, added, product, sums
from attnspec.codegen.ranks.needs import Ints
from attnspec.codegen.ranks.patterns import Patterns
from attnspec.codegen.ranks.placed import Placed
from attnspec.codegen.ranks.rounds import rounds
from attnspec.codegen.ranks.shapes import Shapes
from attnspec.codegen.ranks.shards import Shards
from attnspec.codegen.ranks.traffic import Widths
from attnspec.relation.sizes import Sizes


@dataclass(frozen=True, eq=False)
class Exchange:
    """What each ``source`` sends each ``target`` that needs something of it, in ``step``.

    ``keys`` are keys and values, counted once for each key head; ``rows`` queries, once for each head; ``results`` what
    the rows that ``target`` sent have become, once for each head and branch: these travel the other way, from
    ``target`` to ``source``. ``forward`` and ``backward`` are bytes from source to target, ``forward_back`` and
    ``backward_back`` those that return for them.
    """

    source: Ints
    target: Ints
    step: Ints
    keys: Counts
    rows: Counts
    results: Counts
    forward: Counts
    forward_back: Counts
    backward: Counts
    backward_back: Counts

    @property
    def steps(self) -> int:
        """How many steps there are, that of what is local included."""
        return int(self.step.max(initial=0)) + 1

    def nbytes(self, backward: bool) -> tuple[Counts, Counts]:
        """The bytes of a pass: from source to target, and those that return for them."""
        return (self.backward, self.backward_back) if backward else (self.forward, self.forward_back)

    @cached_property
    def in_order(self) -> tuple[Ints, Ints, Ints, Ints]:
        """The messages in order of their steps: their numbers, steps, sources and targets."""
        short = np.uint16 if self.steps < 1 << 16 else np.int64  # numpy sorts short integers by their digits
        order = np.argsort(self.step.astype(short), kind="stable")
        return order, self.step[order], self.source[order], self.target[order]


def exchange(
    made: tuple[Placed, ...], found: Patterns, shards: Shards, shapes: Shapes, sizes: Sizes, widths: Widths
) -> Exchange:
    """The messages between ranks, each position once."""
    query_groups = sorted({(one.pattern.heads or (0, sizes.heads)) for one in made})
    key_heads = np.array(
        [(b - a) // sizes.group for a, b in (g or (0, sizes.heads) for g in found.groups)], dtype=np.int64
    )
    heads = np.array([b - a for a, b in query_groups], dtype=np.int64)
    of = {group: number for number, group in enumerate(query_groups)}
    wanted: list[list[Wanted]] = [[], [], []]
    for one in made:
        group = of[one.pattern.heads or (0, sizes.heads)]
        far, parts = one.asker != one.keeper, one.parts
        kinds = (one.pattern.keys, group, group * found.branches + one.pattern.branch)
        columns = ((parts.keeper, parts.keys), (parts.asker, parts.rows), (parts.asker, parts.rows))
        for number, ((chunk, shape), kind) in enumerate(zip(columns, kinds, strict=True)):
            mine = far & (one.moved == (number > 0))
            target, chunk, shape = (c if mine.all() else c[mine] for c in (one.place, chunk, shape))
            wanted[number].append(Wanted(target, chunk, np.broadcast_to(kind, len(target)), shape))
    numbers = (len(found.groups), len(query_groups), len(query_groups) * found.branches)
    chunks = len(shards.owners)
    got = [distinct(_joined(some), shapes, chunks, number) for some, number in zip(wanted, numbers, strict=True)]
    counts = [
        got[0].total * key_heads[got[0].kind],
        got[1].total * heads[got[1].kind],
        got[2].total * heads[got[2].kind // found.branches],
    ]
    names = [shards.owner[one.chunk] * shards.ranks + one.target for one in got]
    all_names, places = numbered(np.concatenate(names))
    ends = np.cumsum([0, *map(len, names)])
    keys, rows, results = (
        sums(places[a:b], count, len(all_names)) for a, b, count in zip(ends, ends[1:], counts, strict=False)
    )
    forward = added(product(keys, widths.key), product(rows, widths.query))
    source, target = all_names // shards.ranks, all_names % shards.ranks
    return Exchange(
        source, target, rounds(source, target, forward, shards.ranks), keys, rows, results, forward,
        product(results, widths.result),
        added(product(keys, widths.key), product(rows, widths.query_back), product(results, widths.result_back)),
        added(product(keys, widths.key_gradient), product(rows, widths.query_gradient)),
    )  # fmt: skip


def _joined(wanted: list[Wanted]) -> Wanted:
    if len(wanted) == 1:
        return wanted[0]
    return Wanted(*(np.concatenate(columns) for columns in zip(*wanted, strict=True)))
