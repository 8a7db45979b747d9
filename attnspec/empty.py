"""Which query rows may attend to no key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attnspec.pieces import count
from attnspec.presburger import Pairs, budget
from attnspec.relation import Relation, box
from attnspec.sizes import Sizes


@dataclass(frozen=True)
class EmptyRows:
    """How many rows of a head (of batch entry b) see no key, and the first of them (row number, from 0)."""

    h: int
    b: int
    rows: int
    first: int


def empty_rows(relation: Relation, sizes: Sizes) -> Iterator[EmptyRows]:
    """The heads that have empty rows. Heads that share a set which does not depend on ``h`` are named once."""
    for item in relation.classes:
        members = item.members(sizes.heads)
        heads = members if item.pairs.depends_on("h") else members[:1]
        entries = range(sizes.batch) if item.pairs.depends_on("b") else range(min(1, sizes.batch))
        for h in heads:
            for b in entries:
                with budget(item.pairs):
                    seen = item.pairs.intersection(box(sizes)).left()
                    rows = Pairs.read(f"{sizes.first} <= x < {sizes.first + sizes.n_q} and y = 0")
                    empty = rows.difference(seen).fix(**sizes.parameters(h, b))
                    first = empty.first()
                    pieces = empty.pieces()
                if first is not None:
                    yield EmptyRows(h, b, count(pieces, sizes.n_q, sizes.first), first[0] - sizes.first)
