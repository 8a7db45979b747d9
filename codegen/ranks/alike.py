"""Pairs of chunks whose pairs are the same but for where the chunks stand, as the solver proves: one stands for all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from attnspec.codegen.ranks.needs import Ints, within
from attnspec.codegen.ranks.shards import Shards
from attnspec.relation.count import runs_at
from attnspec.relation.presburger import Pairs, TooHard, budget

_MOST = 24
"""Classes that are looked for: global tokens and borders make some few."""

_MOST_ALONE = 1 << 14
"""Pairs of chunks that are left to be looked at one by one: each takes the solver some milliseconds."""


class Boxes(NamedTuple):
    """Pairs of chunks: those of the queries, and those of the keys."""

    asker: Ints
    keeper: Ints


def classes(pairs: Pairs, shards: Shards) -> Iterator[Boxes]:
    """Classes of live pairs of chunks that are alike; the first of a class stands for it.

    The last are of one each: those that are left after some tries, or that the solver finds too hard. Raises TooHard
    where these are too many.
    """
    with budget(pairs):
        left = _live(pairs, shards)
        boxes = _boxes(left, shards)
    for _ in range(_MOST):
        if not len(boxes.asker):
            return
        middle = len(boxes.asker) // 2
        i, j = int(boxes.asker[middle]), int(boxes.keeper[middle])
        try:
            with budget(pairs):
                same = left.difference(_unlike(pairs, shards, i, j))
                left = left.difference(same)
                found, boxes = _boxes(same, shards), _boxes(left, shards)
        except TooHard:
            break
        if not len(found.asker):
            break
        yield found
    if len(boxes.asker) > _MOST_ALONE:
        raise TooHard(f"{len(boxes.asker):,} pairs of chunks are unlike one another")
    for i, j in zip(boxes.asker, boxes.keeper, strict=True):
        yield Boxes(np.array([i]), np.array([j]))


def _live(pairs: Pairs, shards: Shards) -> Pairs:
    return pairs.image(shards.number("x"), shards.number("y")).intersection(Pairs.read("x != y"))


def _boxes(live: Pairs, shards: Shards) -> Boxes:
    number = len(shards.owners)
    edges = np.zeros((number, number + 1), dtype=np.int8)  # 1 where a run begins, -1 behind its end
    for run in runs_at(live.pieces(), np.arange(number, dtype=np.int64)):
        if run.step == 1:
            np.add.at(edges, (run.x, run.low), 1)
            np.add.at(edges, (run.x, run.high + 1), -1)
            continue
        each = (run.high - run.low) // run.step + 1
        which = np.repeat(np.arange(len(run.x)), each)
        at = run.low[which] + run.step * (np.arange(len(which)) - np.repeat(np.cumsum(each) - each, each))
        np.add.at(edges, (run.x[which], at), 1)
        np.add.at(edges, (run.x[which], at + 1), -1)
    np.cumsum(edges, axis=1, out=edges)
    return Boxes(*np.nonzero(edges))


def _unlike(pairs: Pairs, shards: Shards, i: int, j: int) -> Pairs:
    """The pairs of chunks that do not have exactly the pairs of a given one."""
    rows, keys = shards.chunk(i), shards.chunk(j)
    one = pairs.intersection(Pairs.read(f"{within('x', rows)} and {within('y', keys)}"))
    offsets = one.image(shards.offset("x"), shards.offset("y"))
    every = offsets.view(f"x = {shards.offset('u')} and 0 <= u < {shards.n}")
    differ = every.difference(pairs).union(pairs.difference(every))
    found = differ.image(shards.number("x"), shards.number("y"))
    for name, chunk in (("x", i), ("y", j)):
        found = found.union(Pairs.read(shards.unlike(name, chunk)))
    return found
