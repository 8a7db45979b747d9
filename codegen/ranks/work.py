"""How many pairs there are: in parts, and in chunks with themselves."""

from __future__ import annotations

from contextlib import suppress
from math import lcm

import numpy as np

from attnspec.codegen.ranks.exact import Counts, counts
from attnspec.codegen.ranks.needs import Ints, within
from attnspec.codegen.ranks.parts import Parts
from attnspec.codegen.ranks.runs import Run
from attnspec.codegen.ranks.shapes import Shapes
from attnspec.codegen.ranks.shards import Shards
from attnspec.relation.blocks import count_pairs
from attnspec.relation.box_counts import Ends, count_boxes
from attnspec.relation.count import Piece, TooIrregular
from attnspec.relation.presburger import Pairs, TooHard, budget

_FEW = 64
"""Rectangles that the solver looks at one by one: it sees what in them is constant."""
_EASY = 1 << 15
"""Residue pairs that are counted sooner than the solver finds which rectangles are alike."""
_LONGEST = 1 << 22
"""The longest period that is looked for."""


def box_pairs(pairs: Pairs, queries: Run, keys: Run) -> int:
    """How many pairs there are in a rectangle."""
    inside = pairs.intersection(Pairs.read(f"{within('x', queries)} and {within('y', keys)}"))
    return count_pairs(inside, range(queries.start, queries.stop), keys.stop)


def part_pairs(pairs: Pairs, parts: Parts, shapes: Shapes, shards: Shards) -> Counts:
    """How many pairs each part has: those of one of each kind are counted."""
    which, of = np.unique(parts.like, return_inverse=True)
    if not len(which):
        return np.zeros(0, dtype=np.int64)
    rows = _ends(parts.asker[which], shapes.bounds[parts.rows[which]], shards)
    keys = _ends(parts.keeper[which], shapes.bounds[parts.keys[which]], shards)
    return _counted(pairs, shards.n, rows, keys, shards.step)[of]


def local_pairs(pairs: Pairs, shards: Shards) -> Counts:
    """How many pairs each chunk has with itself."""
    return _counted(pairs, shards.n, shards.ends, shards.ends, shards.step)


def work_of_rows(pairs: Pairs, n: int, size: int) -> Counts:
    """How many pairs the rows of each chunk of a size have."""
    start = np.arange(0, n, size, dtype=np.int64)
    return _counted(pairs, n, (start, np.minimum(start + size, n)), (0 * start, 0 * start + n), 1)


def _counted(pairs: Pairs, n: int, rows: Ends, keys: Ends, step: int) -> Counts:
    """How many pairs there are in each of some rectangles, whose rows and keys go by a step."""
    with budget(pairs):
        pieces = pairs.pieces()
    with suppress(TooIrregular):
        return count_boxes(pieces, rows, keys, step, _EASY)
    which, of = _kinds(pairs, n, pieces, rows, keys)
    rows, keys = (rows[0][which], rows[1][which]), (keys[0][which], keys[1][which])
    if len(which) > _FEW:
        with suppress(TooIrregular):
            return count_boxes(pieces, rows, keys, step)[of]
    boxes = zip(*(column.tolist() for column in (*rows, *keys)), strict=True)
    return counts([box_pairs(pairs, Run(a, b, step), Run(c, d, step)) for a, b, c, d in boxes])[of]


def _kinds(pairs: Pairs, n: int, pieces: tuple[Piece, ...], rows: Ends, keys: Ends) -> tuple[Ints, Ints]:
    """Rectangles that stand for all, and for each the one that stands for it: it is shifted by a period of the pattern.

    All for themselves where the solver does not prove that there is one.
    """
    period = lcm(*(piece.period(axis)[0] for piece in pieces for axis in (1, 2)))
    each = np.arange(len(rows[0]))
    if period >= _LONGEST:
        return each, each
    try:
        with budget(pairs):
            inner = pairs.intersection(Pairs.read(f"x >= {period} and y >= {period}"))
            moved = pairs.image(f"x + {period}", f"y + {period}").intersection(Pairs.read(f"x < {n} and y < {n}"))
            if not inner.equals(moved):
                return each, each
    except TooHard:
        return each, each
    kinds = np.stack([rows[0] % period, rows[1] - rows[0], keys[0] - rows[0], keys[1] - rows[0]])
    _, which, of = np.unique(kinds, axis=1, return_index=True, return_inverse=True)
    return which, of.reshape(-1)


def _ends(chunk: Ints, bounds: Ints, shards: Shards) -> tuple[Ints, Ints]:
    first = shards.ends[0][chunk]
    return first + bounds[:, 0] * shards.step, first + (bounds[:, 1] - 1) * shards.step + 1
