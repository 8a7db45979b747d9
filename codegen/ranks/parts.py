"""Parts of the score matrix that lie across chunks: rectangles that are as small as can be.

A pair of chunks is one part where its rows, and its keys, lie close together; where they do not (a few global rows, and
those near the border), it is cut until they do. All parts are disjoint, and no pair of other chunks is outside of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

from attnspec.codegen.ranks.alike import Boxes, classes
from attnspec.codegen.ranks.needs import Ints, Spans, needed, of_box
from attnspec.codegen.ranks.runs import Run, Runs
from attnspec.codegen.ranks.shapes import Shapes
from attnspec.codegen.ranks.shards import Shards
from attnspec.relation.count import TooIrregular
from attnspec.relation.presburger import Pairs, TooHard

_GAP = 32
_SHARE = 8
"""A gap of more positions than this, and than this share of what it lies in, is worth a cut."""
_MOST_CUT = 64
"""Pairs of chunks that are looked at one by one, of a pattern: each takes the solver some milliseconds."""
_MOST_RUNS, _RUNS_EACH = 1 << 13, 16
"""Runs in pairs of chunks that are written down one by one; of more than that, or many chunks' each, most are alike."""


@dataclass(frozen=True, eq=False)
class Parts:
    """All parts of a pattern by columns: the chunks of queries and keys, and the numbers of their shapes.

    ``like`` is the number of a part that has the same pairs, shifted: where not known otherwise its own.
    """

    asker: Ints
    keeper: Ints
    rows: Ints
    keys: Ints
    like: Ints

    def __len__(self) -> int:
        return len(self.asker)


def parts(pairs: Pairs, shards: Shards, shapes: Shapes) -> Parts:
    """The parts of a pattern without parameters; their shapes are added to ``shapes``."""
    try:
        return _by_runs(pairs, shards, shapes, max(_MOST_RUNS, _RUNS_EACH * len(shards.owners)))
    except (TooIrregular, TooHard):
        return _by_classes(pairs, shards, shapes)


def _by_runs(pairs: Pairs, shards: Shards, shapes: Shapes, most: int) -> Parts:
    """From the runs that chunks need of each other."""
    number = len(shards.owners)
    keys, rows = needed(pairs, shards, most), needed(pairs.transpose(), shards, most)
    rows = Spans(rows.at, rows.of, *rows[2:])
    rows = rows.take(np.lexsort((rows.start, rows.at, rows.of)))
    names, first_keys, keys_of = np.unique(keys.of * number + keys.at, return_index=True, return_inverse=True)
    again, first_rows, rows_of = np.unique(rows.of * number + rows.at, return_index=True, return_inverse=True)
    assert (names == again).all(), "rows that need keys, and keys that rows need, are those of the same pairs of chunks"
    asker, keeper = names // number, names % number
    apart = _apart(keys, keys_of, len(names), shards.step) | _apart(rows, rows_of, len(names), shards.step)
    if apart.sum() > _MOST_CUT:  # they stay whole
        apart[:] = False
    cut = [Boxes(asker[at : at + 1], keeper[at : at + 1]) for at in np.flatnonzero(apart)]
    found = _joined([_cut(pairs, shards, shapes, boxes) for boxes in cut])
    whole = ~apart
    key_shapes = _shapes(keys, first_keys, shards, keeper, shapes, whole)
    row_shapes = _shapes(rows, first_rows, shards, asker, shapes, whole)
    like = np.arange(whole.sum())
    return _joined([found, Parts(asker[whole], keeper[whole], row_shapes, key_shapes, like)])


def _by_classes(pairs: Pairs, shards: Shards, shapes: Shapes) -> Parts:
    """From one of each class of pairs of chunks that are alike."""
    return _joined([_cut(pairs, shards, shapes, boxes) for boxes in classes(pairs, shards)])


def _cut(pairs: Pairs, shards: Shards, shapes: Shapes, boxes: Boxes) -> Parts:
    """The parts of a class of pairs of chunks: those of the first, for all of them."""
    i, j = int(boxes.asker[0]), int(boxes.keeper[0])
    found = []
    for rows, keys in refined(pairs, shards.chunk(i), shards.chunk(j), shards.step):
        row_shape, key_shape = shapes.add_positions(rows, shards, i), shapes.add_positions(keys, shards, j)
        ones = np.ones(len(boxes.asker), dtype=np.int64)
        found.append(Parts(boxes.asker, boxes.keeper, row_shape * ones, key_shape * ones, 0 * ones))
    return _joined(found)


def refined(pairs: Pairs, queries: Run, keys: Run, step: int, depth: int = 4) -> list[tuple[Runs, Runs]]:
    """The pairs of a rectangle in disjoint parts whose rows, and whose keys, lie close together: both, exactly."""
    rows, columns = of_box(pairs, queries, keys)
    if not rows:
        return []
    row_groups, column_groups = _close(rows, step), _close(columns, step)
    if not depth or (len(row_groups) == 1 and len(column_groups) == 1):
        return [(rows, columns)]
    return [
        part
        for some in row_groups
        for others in column_groups
        for part in refined(pairs, hull(some, step), hull(others, step), step, depth - 1)
    ]


def hull(runs: Runs, step: int) -> Run:
    """The run by a step, which all of them keep to, from the first position to the last."""
    return Run(runs[0].start, max(run.stop for run in runs), step)


def stride(rows: Runs, keys: Runs, step: int) -> int:
    """The step by which rows and keys of a part go on both sides, a multiple of ``step``."""
    if len(rows) > 1 or len(keys) > 1:
        return step
    return gcd(*(run.step for run in (*rows, *keys) if run.length > 1)) or step


def _close(runs: Runs, step: int) -> list[Runs]:
    """Runs in groups between which there is room."""
    least = max(_GAP * step, (max(run.stop for run in runs) - runs[0].start) // _SHARE)
    groups: list[list[Run]] = [[runs[0]]]
    end = runs[0].stop
    for run in runs[1:]:
        if run.start - end >= least:
            groups.append([])
        groups[-1].append(run)
        end = max(end, run.stop)
    return [tuple(group) for group in groups]


def _apart(spans: Spans, of: Ints, number: int, step: int) -> NDArray[np.bool_]:
    """Of which of so many groups the runs, in order of groups and starts, have room between them."""
    if not len(of):
        return np.zeros(number, dtype=bool)
    first = np.flatnonzero(np.append(True, of[1:] != of[:-1]))
    base = of * (1 << 40)  # groups lie behind one another: the largest stop so far is one of its own
    reach = np.maximum.accumulate(base + spans.stop) - base
    gap = np.zeros(len(of), dtype=np.int64)
    gap[1:] = np.where(of[1:] == of[:-1], spans.start[1:] - reach[:-1], 0)
    length = np.maximum.reduceat(spans.stop, first) - spans.start[first]
    found: NDArray[np.bool_] = np.maximum.reduceat(gap, first) >= np.maximum(_GAP * step, length // _SHARE)
    return found


def _shapes(spans: Spans, first: Ints, shards: Shards, chunk: Ints, shapes: Shapes, which: NDArray[np.bool_]) -> Ints:
    """The number of the shape of each group of runs, which begin at ``first``, of ``which`` groups."""
    end = np.append(first[1:], len(spans.start))
    base = np.repeat(shards.ends[0][chunk], end - first)
    start, stop = (spans.start - base) // shards.step, (spans.stop - 1 - base) // shards.step + 1
    step = np.where(stop - start > 1, spans.step // shards.step, 1)
    table = np.stack([start, stop, step], axis=1).tolist()
    found = [
        shapes.add(tuple(Run(*run) for run in table[a:b]))
        for a, b in zip(first[which].tolist(), end[which].tolist(), strict=True)
    ]
    return np.array(found, dtype=np.int64)


def _joined(found: list[Parts]) -> Parts:
    """Parts one after another; each list counts what its parts are like from its own beginning."""
    if len(found) == 1:
        return found[0]
    if not found:
        return Parts(*(np.zeros(0, dtype=np.int64) for _ in range(5)))
    return Parts(
        np.concatenate([one.asker for one in found]),
        np.concatenate([one.keeper for one in found]),
        np.concatenate([one.rows for one in found]),
        np.concatenate([one.keys for one in found]),
        np.concatenate([one.like + at for one, at in zip(found, np.cumsum([0, *map(len, found)])[:-1], strict=True)]),
    )
