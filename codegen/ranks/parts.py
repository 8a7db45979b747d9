"""Parts of the score matrix that lie across chunks: rectangles that are as small as can be, and where each is computed.

A pair of chunks is one part where its rows, and its keys, lie close together; where they do not (a few global rows, and
those near the border), it is cut until they do. All parts are disjoint, and no pair of other chunks is outside of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import NamedTuple

import numpy as np

from attnspec.codegen.ranks.needs import Ints, Spans, needed, of_box
from attnspec.codegen.ranks.runs import Run, Runs
from attnspec.codegen.ranks.shards import Shards
from attnspec.relation.presburger import Pairs

_GAP = 32
_SHARE = 8
"""A gap of more positions than this, and than this share of what it lies in, is worth a cut."""
_MOST_CUT = 256
"""Pairs of chunks that are cut further, of a pattern: each takes the solver some milliseconds."""


class Part(NamedTuple):
    """A rectangle of pairs of two chunks: exactly the rows and the keys that some pair of it has."""

    rows: Runs
    keys: Runs


@dataclass(frozen=True, eq=False)
class Parts:
    """All parts of a pattern by columns: the chunk of the queries, that of the keys, and how many rows and keys.

    ``rows`` and ``keys`` are runs, of part ``of``, in chunk ``at``.
    """

    asker: Ints
    keeper: Ints
    row_count: Ints
    key_count: Ints
    rows: Spans
    keys: Spans

    def __len__(self) -> int:
        return len(self.asker)


def parts(pairs: Pairs, shards: Shards) -> Parts:
    """The parts of a pattern without parameters."""
    number = len(shards.owners)
    keys, rows = needed(pairs, shards), needed(pairs.transpose(), shards)
    rows = rows.take(np.lexsort((rows.start, rows.of, rows.at)))
    named, keys_of = np.unique(keys.of * number + keys.at, return_inverse=True)
    again, rows_of = np.unique(rows.at * number + rows.of, return_inverse=True)
    assert (named == again).all(), "rows that need keys, and keys that rows need, are those of the same pairs of chunks"
    apart = _apart(keys, keys_of, len(named), shards.step) | _apart(rows, rows_of, len(named), shards.step)
    cut: list[tuple[int, int, Part]] = []
    if apart.any() and apart.sum() <= _MOST_CUT:
        for pair in named[apart].tolist():
            i, j = divmod(pair, number)
            cut += [(i, j, part) for part in refined(pairs, shards.chunk(i), shards.chunk(j), shards.step)]
    else:
        apart = np.zeros(len(named), dtype=bool)
    renumbered = np.cumsum(~apart) - 1
    whole = int((~apart).sum())
    kept_keys, kept_rows = ~apart[keys_of], ~apart[rows_of]
    keys = keys.take(kept_keys)._replace(of=renumbered[keys_of[kept_keys]])
    rows = rows.take(kept_rows)._replace(of=renumbered[rows_of[kept_rows]])
    asker, keeper = named[~apart] // number, named[~apart] % number
    asker = np.concatenate([asker, np.array([i for i, _, _ in cut], dtype=np.int64)])
    keeper = np.concatenate([keeper, np.array([j for _, j, _ in cut], dtype=np.int64)])
    rows = _with(rows, [(whole + at, i, part.rows) for at, (i, _, part) in enumerate(cut)])
    keys = _with(keys, [(whole + at, j, part.keys) for at, (_, j, part) in enumerate(cut)])
    return Parts(asker, keeper, _total(rows, len(asker)), _total(keys, len(asker)), rows, keys)


def refined(pairs: Pairs, queries: Run, keys: Run, step: int, depth: int = 4) -> list[Part]:
    """The pairs of a rectangle in disjoint parts whose rows, and whose keys, lie close together."""
    rows, columns = of_box(pairs, queries, keys)
    if not rows:
        return []
    row_groups, column_groups = _close(rows, step), _close(columns, step)
    if not depth or (len(row_groups) == 1 and len(column_groups) == 1):
        return [Part(rows, columns)]
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
    least = _least(max(run.stop for run in runs) - runs[0].start, step)
    groups: list[list[Run]] = [[runs[0]]]
    end = runs[0].stop
    for run in runs[1:]:
        if run.start - end >= least:
            groups.append([])
        groups[-1].append(run)
        end = max(end, run.stop)
    return [tuple(group) for group in groups]


def _least(length: int, step: int) -> int:
    return max(_GAP * step, length // _SHARE)


def _apart(spans: Spans, of: Ints, number: int, step: int) -> np.ndarray:
    """Of which of so many groups the runs, in order of groups and starts, have room between them."""
    if not len(of):
        return np.zeros(number, dtype=bool)
    first = np.flatnonzero(np.append(True, of[1:] != of[:-1]))
    base = of * (1 << 40)  # groups lie behind one another: the largest stop so far is one of its own
    reach = np.maximum.accumulate(base + spans.stop) - base
    gap = np.zeros(len(of), dtype=np.int64)
    gap[1:] = np.where(of[1:] == of[:-1], spans.start[1:] - reach[:-1], 0)
    length = np.maximum.reduceat(spans.stop, first) - spans.start[first]
    widest = np.maximum.reduceat(gap, first)
    found: np.ndarray = widest >= np.maximum(_GAP * step, length // _SHARE)
    return found


def _total(spans: Spans, number: int) -> Ints:
    found = np.zeros(number, dtype=np.int64)
    np.add.at(found, spans.of, spans.lengths)
    return found


def _with(spans: Spans, more: list[tuple[int, int, Runs]]) -> Spans:
    rows = [(of, at, *run) for of, at, runs in more for run in runs]
    if not rows:
        return spans
    table = np.array(rows, dtype=np.int64).T
    return Spans(*(np.concatenate([old, new]) for old, new in zip(spans, table, strict=True)))
