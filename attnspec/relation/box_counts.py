"""How many pairs there are in each of many rectangles, at once.

>>> from attnspec.relation.presburger import Pairs
>>> near = Pairs.read("0 <= x - y < 3").pieces()
>>> low = np.array([0, 10, 20])
>>> count_boxes(near, (low, low + 10), (low * 0, low + 2)).tolist()
[6, 9, 9]
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

import numpy as np
from numpy.typing import NDArray

from attnspec.relation.count import Ints, Piece, TooIrregular, guard, lattice, polygons

WORK = 2_000_000
"""Residue pairs of all rectangles: one to two seconds."""
_CHUNK = 1 << 15
_MOST = 2.0**62

Ends = tuple[Ints, Ints]
"""Where each rectangle begins and ends on a side."""


def count_boxes(pieces: tuple[Piece, ...], rows: Ends, keys: Ends, stride: int = 1, most: int = WORK) -> Ints:
    """How many pairs of pieces, which are disjoint, each rectangle has.

    ``rows`` and ``keys`` go from their beginnings in steps of ``stride`` to before their ends. Raises TooIrregular
    where the divisors are too large and too different: with more than ``most`` residue pairs of all rectangles. And
    where a rectangle might have more pairs than 64 bits hold.
    """
    if (_length(rows, stride) * _length(keys, stride).astype(np.float64)).max(initial=0.0) >= _MOST:
        raise TooIrregular
    total = np.zeros(len(rows[0]), dtype=np.int64)
    for piece in pieces:
        guard(piece)
        least, largest = _ends_of(piece, rows, keys)
        live = (rows[0] < rows[1]) & (keys[0] < keys[1]) & (largest >= 0).all(0)
        whole = live & (least >= 0).all(0)
        total[whole] += _length(rows, stride)[whole] * _length(keys, stride)[whole]
        (left,) = np.nonzero(live & ~whole)
        which, of = _kinds(piece, least[:, left] < 0, _taken(rows, left), _taken(keys, left))
        total[left] += _count(piece, _taken(rows, left[which]), _taken(keys, left[which]), stride, most)[of]
    return total


def _length(ends: Ends, stride: int) -> Ints:
    return (ends[1] - ends[0] + stride - 1) // stride


def _taken(ends: Ends, which: Ints) -> Ends:
    return ends[0][which], ends[1][which]


def _ends_of(piece: Piece, rows: Ends, keys: Ends) -> Ends:
    """Between which numbers each row of a piece is in each rectangle: (rows, rectangles)."""
    low: list[Ints] = [np.ones_like(rows[0]), rows[0], keys[0]]
    high: list[Ints] = [np.ones_like(rows[0]), rows[1] - 1, keys[1] - 1]

    def ends(row: tuple[int, ...]) -> Ends:
        terms = [(c, a, b) for c, a, b in zip(row, low, high, strict=False) if c]
        none = np.zeros_like(rows[0])
        return (
            sum((c * (a if c > 0 else b) for c, a, b in terms), start=none),
            sum((c * (b if c > 0 else a) for c, a, b in terms), start=none),
        )

    for division in piece.divisions:
        least, largest = ends(division.row)
        low.append(least // division.denominator)
        high.append(largest // division.denominator)
    found = [ends(row) for row in piece.rows]
    none = np.zeros((0, len(rows[0])), dtype=np.int64)
    return np.stack([a for a, _ in found] or [*none]), np.stack([b for _, b in found] or [*none])


def _kinds(piece: Piece, open_: NDArray[np.bool_], rows: Ends, keys: Ends) -> tuple[Ints, Ints]:
    """Rectangles that stand for all, and which of them for each.

    Where both sides, or one, are shifted by a period, the pairs of a rectangle are the same if no row of the piece
    grows by that which is ``open_`` in it: (rows, rectangles), False where all of its pairs fulfil the row.
    """
    (down, x_slopes), (across, y_slopes) = piece.slopes(1), piece.slopes(2)
    period = lcm(down, across)
    alike = np.ones((3, len(rows[0])), dtype=bool)  # shifted on both sides, by rows, by keys
    for x_slope, y_slope, matters in zip(x_slopes, y_slopes, open_, strict=True):
        by_x, by_y = x_slope * (period // down), y_slope * (period // across)
        for shifted, grows in zip(alike, (by_x + by_y, by_x, by_y), strict=True):
            if grows:
                shifted &= ~matters
    both, by_rows, by_keys, free, alone = range(5)
    way = np.where(alike.all(0), free, np.where(alike.any(0), alike.argmax(0), alone))
    own = np.where(way == alone, np.arange(len(way)), -1)
    place = np.where(way == by_keys, rows[0], rows[0] % period)
    beside = np.select([way == both, way == by_rows], [keys[0] - rows[0], keys[0]], keys[0] % period)
    kinds = np.stack([way, own, place, beside, rows[1] - rows[0], keys[1] - keys[0]])
    _, which, of = np.unique(kinds, axis=1, return_index=True, return_inverse=True)
    return which, of.reshape(-1)


@dataclass(frozen=True)
class _Sum:
    """How the pairs of a piece are summed: by polygons whose rows are a period apart, and whose keys a step."""

    piece: Piece
    slopes: list[tuple[int, int]]
    period: int
    step: int
    down: int
    across: int


def _sum(piece: Piece, rows: Ends, keys: Ends, stride: int) -> _Sum:
    step, period, slopes = lattice(piece, stride)
    # Rectangles that are shorter than a period have no more residues than rows.
    down = min(period // stride, int(_length(rows, stride).max(initial=0)))
    across = min(step // stride, int(_length(keys, stride).max(initial=0)))
    return _Sum(piece, slopes, period, step, down, across)


def _count(piece: Piece, rows: Ends, keys: Ends, stride: int, most: int) -> Ints:
    """How many pairs of a piece rectangles have: row by row or key by key, whatever takes fewer residues."""
    one, other = _sum(piece, rows, keys, stride), _sum(piece.transpose(), keys, rows, stride)
    if other.down * other.across < one.down * one.across:
        one, rows, keys = other, keys, rows
    total = np.zeros(len(rows[0]), dtype=np.int64)
    each = one.down * one.across
    if each * len(total) > most:
        raise TooIrregular
    for start in range(0, each * len(total), _CHUNK):
        flat = np.arange(start, min(start + _CHUNK, each * len(total)), dtype=np.int64)
        box, rest = flat // each, flat % each
        x, y = rows[0][box] + stride * (rest // one.across), keys[0][box] + stride * (rest % one.across)
        inside = (x < rows[1][box]) & (y < keys[1][box])
        box, x, y = box[inside], x[inside], y[inside]
        above = (keys[1][box] - 1 - y) // one.step
        kept, areas = polygons(one.piece, x, y, one.slopes, one.period, rows[1][box], above)
        np.add.at(total, box[kept], areas)
    return total
