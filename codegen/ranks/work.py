"""How many pairs there are: in parts, and in chunks with themselves."""

from __future__ import annotations

import numpy as np

from attnspec.codegen.ranks.alike import classes
from attnspec.codegen.ranks.needs import Ints, within
from attnspec.codegen.ranks.parts import Parts
from attnspec.codegen.ranks.runs import Run
from attnspec.codegen.ranks.shapes import Shapes
from attnspec.codegen.ranks.shards import Shards
from attnspec.relation.blocks import count_pairs
from attnspec.relation.box_counts import count_boxes
from attnspec.relation.count import Piece, TooIrregular
from attnspec.relation.presburger import Pairs, budget

_EASY = 1 << 17
"""Residue pairs that are counted sooner than the solver finds which chunks are alike."""


def box_pairs(pairs: Pairs, queries: Run, keys: Run) -> int:
    """How many pairs there are in a rectangle."""
    inside = pairs.intersection(Pairs.read(f"{within('x', queries)} and {within('y', keys)}"))
    return count_pairs(inside, range(queries.start, queries.stop), keys.stop)


def part_pairs(pairs: Pairs, parts: Parts, shapes: Shapes, shards: Shards) -> Ints:
    """How many pairs each part has: those of one of each kind are counted."""
    which, of = np.unique(parts.like, return_inverse=True)
    if not len(which):
        return np.zeros(0, dtype=np.int64)
    rows = _ends(parts.asker[which], shapes.bounds[parts.rows[which]], shards)
    keys = _ends(parts.keeper[which], shapes.bounds[parts.keys[which]], shards)
    return _counted(pairs, rows, keys, shards.step)[of]


def local_pairs(pairs: Pairs, shards: Shards) -> Ints:
    """How many pairs each chunk has with itself."""
    runs = [shards.chunk(number) for number in range(len(shards.owners))]
    ends = (np.array([run.start for run in runs]), np.array([run.stop for run in runs]))
    try:
        return count_boxes(_pieces(pairs), ends, ends, shards.step, _EASY)
    except TooIrregular:
        found = np.zeros(len(runs), dtype=np.int64)
        for boxes in classes(pairs, shards, local=True):
            run = runs[int(boxes.asker[0])]
            found[boxes.asker] = box_pairs(pairs, run, run)
        return found


def work_of_rows(pairs: Pairs, n: int, size: int) -> Ints:
    """How many pairs the rows of each chunk of a size have."""
    start = np.arange(0, n, size, dtype=np.int64)
    return _counted(pairs, (start, np.minimum(start + size, n)), (0 * start, 0 * start + n), 1)


def _counted(pairs: Pairs, rows: tuple[Ints, Ints], keys: tuple[Ints, Ints], step: int) -> Ints:
    try:
        return count_boxes(_pieces(pairs), rows, keys, step)
    except TooIrregular:
        boxes = zip(*(column.tolist() for column in (*rows, *keys)), strict=True)
        return np.array([box_pairs(pairs, Run(a, b, step), Run(c, d, step)) for a, b, c, d in boxes], dtype=np.int64)


def _pieces(pairs: Pairs) -> tuple[Piece, ...]:
    with budget(pairs):
        return pairs.pieces()


def _ends(chunk: Ints, bounds: Ints, shards: Shards) -> tuple[Ints, Ints]:
    first = chunk * shards.size if shards.size else chunk
    return first + bounds[:, 0] * shards.step, first + (bounds[:, 1] - 1) * shards.step + 1
