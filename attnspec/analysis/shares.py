"""How much of each cell of a picture is allowed, so that a dilated branch looks lighter than a dense one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attnspec.analysis.picture import cell
from attnspec.relation.count import Runs, runs_at
from attnspec.relation.effort import stage
from attnspec.relation.presburger import budget
from attnspec.relation.relation import Relation, box
from attnspec.relation.sizes import Sizes

_ROWS = 32
"""Rows that are looked at in each row of cells: all of them up to 32,768 queries."""
_CHUNK = 1 << 12


@stage()
def shares(relation: Relation, sizes: Sizes, h: int, b: int, most: int) -> NDArray[np.float32]:
    """The share of the pairs that one head may see in each cell of :func:`~attnspec.analysis.picture.cells`.

    Exact along the keys; where a cell has more rows than a few, of some of its rows, drawn at random (always the same).
    Raises as ``cells`` does where the solver's budget does not suffice.
    """
    height, width = cell(sizes, most)
    item = relation.of_head(h)
    with budget(item.pairs):
        cut = item.pairs.intersection(box(sizes)).fix(**relation.parameters(sizes, h, b, item.pairs))
        pieces = cut.pieces()
    starts = np.arange(0, sizes.n_q, height)
    rows = np.minimum(starts[:, None] + _chosen(height, len(starts)), sizes.n_q - 1)
    x, times = np.unique(rows, return_counts=True)
    edges = np.minimum(np.arange(0, sizes.n + width, width), sizes.n)
    found = np.zeros((len(starts), len(edges) - 1))
    for run in runs_at(pieces, x + sizes.first):
        at = run.x - sizes.first
        counts = _counts(run, edges) * times[np.searchsorted(x, at), None]
        np.add.at(found, at // height, counts)
    share: NDArray[np.float32] = (found / (rows.shape[1] * np.diff(edges))).astype(np.float32)
    return share


def _chosen(height: int, cells: int) -> NDArray[np.int64]:
    """(cells, rows): which rows of each cell are looked at, one in each stretch of equal size."""
    if height <= _ROWS:
        return np.broadcast_to(np.arange(height), (cells, height))
    steps = np.linspace(0, height, _ROWS + 1).astype(np.int64)
    return np.random.default_rng(0).integers(steps[:-1], steps[1:], (cells, _ROWS))


def _counts(run: Runs, edges: NDArray[np.int64]) -> NDArray[np.float64]:
    """How many keys of each row of a run lie in each cell."""
    out = np.empty((len(run.x), len(edges) - 1))
    for start in range(0, len(run.x), _CHUNK):
        rows = slice(start, start + _CHUNK)
        low, high = run.low[rows, None], run.high[rows, None]
        before = (np.minimum(edges - 1, high) - low) // run.step + 1
        out[rows] = np.diff(np.maximum(before, 0), axis=1)
    return out
