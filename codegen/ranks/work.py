"""How many pairs there are: of the rows of each chunk, and of rectangles."""

from __future__ import annotations

import numpy as np

from attnspec.codegen.ranks.needs import Ints, within
from attnspec.codegen.ranks.patterns import Pattern
from attnspec.codegen.ranks.runs import Run
from attnspec.codegen.ranks.shards import Shards
from attnspec.relation.count import count
from attnspec.relation.presburger import Pairs, budget


def box_pairs(pairs: Pairs, queries: Run, keys: Run) -> int:
    """How many pairs there are in a rectangle."""
    inside = Pairs.read(f"{within('x', queries)} and {within('y', keys)}")
    with budget(pairs):
        pieces = pairs.intersection(inside).pieces()
    return count(pieces, queries.stop - queries.start, queries.start)


def work_of_rows(pattern: Pattern, shards: Shards) -> Ints:
    """How many pairs the rows of each chunk have, over the heads of a pattern."""
    runs = list(map(shards.chunk, range(len(shards.owners))))
    if not shards.size:
        keys = Run(0, shards.n)
        return np.array([box_pairs(pattern.pairs, run, keys) * pattern.count for run in runs], dtype=np.int64)
    with budget(pattern.pairs):
        pieces = pattern.pairs.pieces()
    return np.array([count(pieces, run.stop - run.start, run.start) * pattern.count for run in runs], dtype=np.int64)
