"""Which query rows may attend to no key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attnspec.relation.count import count
from attnspec.relation.presburger import Pairs, budget
from attnspec.relation.relation import DependsOnInputs, Relation, box, inputs_of
from attnspec.relation.sizes import Sizes


@dataclass(frozen=True)
class EmptyRows:
    """How many rows of a head (of batch entry b) see no key, and the first of them (row number, from 0)."""

    h: int
    b: int
    rows: int
    first: int


def empty_rows(relation: Relation, sizes: Sizes) -> Iterator[EmptyRows]:
    """The heads that have empty rows. Heads that share a set which does not depend on ``h`` are named once.

    Raises DependsOnInputs where it takes the contents of inputs to know.
    """
    relation.require_positions()
    for item in relation.classes:
        members = item.members(sizes.heads)
        heads = members if relation.varies(item, "h") else members[:1]
        entries = range(sizes.batch) if relation.varies(item, "b") else range(min(1, sizes.batch))
        for h in heads:
            for b in entries:
                values = relation.parameters(sizes, h, b, item.pairs, item.sure)
                with budget(item.pairs, item.sure):
                    empty = _empty(item.pairs, sizes, values)
                    if not item.exact and not empty.equals(_empty(item.sure, sizes, values)):
                        raise DependsOnInputs(relation.spec, inputs_of(item.unknown), item.unknown)
                    first = empty.first()
                    pieces = empty.pieces()
                if first is not None:
                    yield EmptyRows(h, b, count(pieces, sizes.n_q, sizes.first), first[0] - sizes.first)


def _empty(pairs: Pairs, sizes: Sizes, values: dict[str, int]) -> Pairs:
    """The rows of a call, as ``(x, 0)``, that have none of the pairs."""
    rows = Pairs.read(f"{sizes.first} <= x < {sizes.first + sizes.n_q} and y = 0")
    return rows.difference(pairs.intersection(box(sizes)).left()).fix(**values)
