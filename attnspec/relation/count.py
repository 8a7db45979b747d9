"""Counting and listing the integer pairs of a set exactly, by arithmetic on its constraints.

A piece is cut out by inequalities over ``x``, ``y`` and floor divisions. Splitting x and y by their residues modulo
the divisors turns every floor division into an affine term, so what is left are lattice points in convex polygons, and
these are summed by arithmetic series: the work depends on the divisors and not on the range of x.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd, lcm
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnspec.errors.diagnostic import AttnspecError
from attnspec.relation import effort

Ints = NDArray[np.int64]
_WORK = 20_000_000
"""Residue pairs that a count may visit: one to two seconds."""
_STEPS_PER_OPERATION = 256
"""How many terms (a row of constraints at a residue pair, a corner of its sum) take as long as one of the solver."""
_CHUNK = 1 << 11
_REACH = 1 << 34


class TooIrregular(AttnspecError):
    """The divisors of a pattern have too large a common multiple, or its numbers are too large, for exact counts."""

    def __init__(self) -> None:
        super().__init__("the pattern's periods or numbers are too large for an exact count")


@dataclass(frozen=True, slots=True)
class Floor:
    """``floor(row . (1, x, y, earlier divisions) / denominator)``."""

    row: tuple[int, ...]
    denominator: int


@dataclass(frozen=True, slots=True)
class Piece:
    """The pairs with ``row . (1, x, y, divisions) >= 0`` for every row."""

    divisions: tuple[Floor, ...]
    rows: tuple[tuple[int, ...], ...]

    @property
    def terms(self) -> int:
        """How many divisions and rows there are to work out for a pair."""
        return len(self.divisions) + len(self.rows)

    def transpose(self) -> Piece:
        """The pairs ``(y, x)``."""

        def turned(row: tuple[int, ...]) -> tuple[int, ...]:
            return row[0], row[2], row[1], *row[3:]

        divisions = tuple(Floor(turned(div.row), div.denominator) for div in self.divisions)
        return Piece(divisions, tuple(map(turned, self.rows)))

    def period(self, axis: int) -> tuple[int, tuple[int, ...]]:
        """The smallest period in x (axis 1) or y (axis 2) that makes every division step by an integer.

        Returns the period and by how much each division grows over it.
        """
        base, steps = 1, [0] * len(self.divisions)
        for i, div in enumerate(self.divisions):
            change = div.row[axis] * base + sum(c * s for c, s in zip(div.row[3:], steps[:i], strict=True))
            times = div.denominator // gcd(div.denominator, change)
            base, steps[:i] = base * times, [s * times for s in steps[:i]]
            steps[i] = change * times // div.denominator
        return base, tuple(steps)

    def slopes(self, axis: int) -> tuple[int, tuple[int, ...]]:
        """The same period, and by how much each row grows over it."""
        period, grows = self.period(axis)
        return period, tuple([row[axis] * period + sum(map(mul, row[3:], grows)) for row in self.rows])


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs of equal rows: row ``x[i]`` holds ``low[i], low[i] + step, ...`` up to ``high[i]`` (included)."""

    x: Ints
    low: Ints
    high: Ints
    step: int


def count(pieces: tuple[Piece, ...], rows: int, first: int = 0) -> int:
    """How many pairs there are with ``first <= x < first + rows``; y must be bounded by the pieces.

    Raises TooIrregular where the divisors are too large and too different.
    """
    return sum(_count_piece(piece, rows, first) for piece in pieces)


def row_counts(pieces: tuple[Piece, ...], x: Ints) -> Ints:
    """How many y each of the given x has."""
    total = np.zeros(len(x), dtype=np.int64)
    for piece in pieces:
        for run in _runs(piece, x):
            np.add.at(total, np.searchsorted(x, run.x), (run.high - run.low) // run.step + 1)
    return total


def runs(pieces: tuple[Piece, ...], rows: int, first: int = 0) -> list[Runs]:
    """All pairs with ``first <= x < first + rows``, as runs."""
    return runs_at(pieces, np.arange(first, first + rows, dtype=np.int64))


def runs_at(pieces: tuple[Piece, ...], x: Ints) -> list[Runs]:
    """All pairs of the given x, as runs."""
    return [run for piece in pieces for run in _runs(piece, x)]


def _require(pairs: int) -> None:
    """Refuse to visit more residue pairs than one count may."""
    if pairs > _WORK:
        raise TooIrregular


def _spend(terms: int) -> None:
    """Refuse more work than a stage may take."""
    if effort.exhausted():
        raise TooIrregular
    effort.charge(terms // _STEPS_PER_OPERATION)


def guard(piece: Piece, most: int = _REACH) -> None:
    """Refuse pieces whose numbers might not fit in 64 bits, at the lengths that are counted (up to 2**33)."""
    bounds: list[int] = []
    for row in [*(d.row for d in piece.divisions), *piece.rows]:
        worst = abs(row[0]) + abs(row[1]) * most + abs(row[2]) * _REACH
        worst += sum(abs(c) * b for c, b in zip(row[3:], bounds, strict=False))
        if worst >= 1 << 61:
            raise TooIrregular
        if len(bounds) < len(piece.divisions):
            bounds.append(worst // piece.divisions[len(bounds)].denominator + 1)


def _affine(row: tuple[int, ...], x: Any, y: Any, divs: list[Any]) -> Any:
    value: Any = row[0]
    for c, v in zip(row[1:], (x, y, *divs), strict=False):
        if c:
            value = value + (v if c == 1 else c * v)
    return value


def _divisions(piece: Piece, x: Any, y: Any) -> list[Any]:
    divs: list[Any] = []
    for div in piece.divisions:
        divs.append(_affine(div.row, x, y, divs) // div.denominator)
    return divs


def _runs(piece: Piece, x: Ints) -> Iterator[Runs]:
    """The runs of a piece in the given rows: for each residue of y, y is bounded by affine functions of x."""
    guard(piece, int(np.abs(x).max(initial=0)) + 1)
    step, slopes = piece.slopes(2)
    _require(step * max(1, len(x)))
    block = max(1, _CHUNK // max(1, len(x)))
    for start in range(0, step, block):
        residue = np.arange(start, min(start + block, step), dtype=np.int64)[:, None]
        shape = len(residue), len(x)
        _spend(piece.terms * residue.size * len(x))
        divs = _divisions(piece, x, residue)
        keep = np.ones(shape, dtype=bool)
        low = np.full(shape, -(1 << 62), dtype=np.int64)
        high = np.full(shape, 1 << 62, dtype=np.int64)
        for row, slope in zip(piece.rows, slopes, strict=True):
            at = _affine(row, x, residue, divs)
            if slope == 0:
                keep &= at >= 0
            elif slope > 0:
                low = np.maximum(low, -(at // slope))
            else:
                high = np.minimum(high, at // -slope)
        which, row_of = np.nonzero(keep & (low <= high))
        if len(which):
            shift = residue[which, 0]
            yield Runs(x[row_of], low[which, row_of] * step + shift, high[which, row_of] * step + shift, step)


def _count_piece(piece: Piece, rows: int, first: int) -> int:
    guard(piece)
    step, period, slopes = lattice(piece)
    if period >= rows:  # every residue holds at most one row: count the rows one by one
        _require(step * rows)
        parts = (
            np.arange(a, min(a + _CHUNK, first + rows), dtype=np.int64) for a in range(first, first + rows, _CHUNK)
        )
        return sum(int(((r.high - r.low) // r.step + 1).sum()) for x in parts for r in _runs(piece, x))
    _require(step * period)
    total = 0
    for start in range(0, step * period, _CHUNK):
        flat = np.arange(start, min(start + _CHUNK, step * period), dtype=np.int64)
        total += _polygon(piece, first + flat % period, flat // period, slopes, period, first + rows)
    return total


def lattice(piece: Piece, stride: int = 1) -> tuple[int, int, list[tuple[int, int]]]:
    """Steps of y and of x over which each row grows by an integer, multiples of a stride; and these, (by y, by x).

    What a row grows by over the step of x is a multiple of what it grows by over that of y, if that is not zero.
    """
    (step, by_y), (period, by_x) = piece.slopes(2), piece.slopes(1)
    many, more = lcm(step, stride) // step, lcm(period, stride) // period
    slopes = [(y * many, x * more) for y, x in zip(by_y, by_x, strict=True)]
    widen = lcm(*(abs(y) // gcd(y, x) for y, x in slopes if y))
    return step * many, period * more * widen, [(y, x * widen) for y, x in slopes]


def _polygon(piece: Piece, x: Ints, residue: Ints, slopes: list[tuple[int, int]], period: int, end: int) -> int:
    """Lattice points (t, s) of the polygons ``x + period t, residue + step s``, one polygon for each x."""
    _, ends, width = _series(piece, x, residue, slopes, period, end, None)
    # Each product is twice an arithmetic series, hence even. Python's integers where 64 bits might not hold the sum.
    if _fits(ends, width):
        return int((ends * width).sum()) // 2
    return sum(int(a) * int(b) for a, b in zip(ends.flat, width.flat, strict=True) if b) // 2


def polygons(
    piece: Piece, x: Ints, y: Ints, slopes: list[tuple[int, int]], period: int, end: Ints, above: Ints
) -> tuple[Ints, Ints]:
    """The lattice points of each polygon ``x + period t, y + step s``: ``t >= 0``, ``0 <= s <= above``, x < ``end``.

    Returns the places of those that may have some, and how many these have.
    """
    kept, ends, width = _series(piece, x, y, slopes, period, end, above)
    if not _fits(ends, width):
        raise TooIrregular
    return kept, (ends * width).sum(0) // 2


def _fits(ends: Ints, width: Ints) -> bool:
    return float(ends.max(initial=0)) * float(width.max(initial=0)) * ends.size < 2.0**62


def _series(
    piece: Piece,
    x: Ints,
    residue: Ints,
    slopes: list[tuple[int, int]],
    period: int,
    end: Ints | int,
    most: Ints | None,
) -> tuple[Ints, Ints, Ints]:
    """The places of polygons that may have points, and of each arithmetic series: sums of two ends, and lengths."""
    _spend(piece.terms * len(x))
    divs = _divisions(piece, x, residue)
    kept = np.ones(len(x), dtype=bool)
    for row, slope in zip(piece.rows, slopes, strict=True):
        if slope == (0, 0):
            kept &= _affine(row, x, residue, divs) >= 0
    if not kept.all():  # most often few are left
        x, residue, divs = x[kept], residue[kept], [d[kept] if np.ndim(d) else d for d in divs]
        end, most = end[kept] if isinstance(end, np.ndarray) else end, None if most is None else most[kept]
    first, last = np.zeros_like(x), (end - 1 - x) // period  # the t that stay within the rows
    upper: list[tuple[int, Ints]] = []
    lower: list[tuple[int, Ints]] = []
    if most is not None:
        upper.append((0, most))
        lower.append((0, np.zeros_like(most)))
    for row, (along_y, along_x) in zip(piece.rows, slopes, strict=True):
        if along_y < 0:
            upper.append((along_x // -along_y, _affine(row, x, residue, divs) // -along_y))
        elif along_y > 0:
            lower.append((-(along_x // along_y), -(_affine(row, x, residue, divs) // along_y)))
        elif along_x > 0:
            np.maximum(first, -(_affine(row, x, residue, divs) // along_x), out=first)
        elif along_x < 0:
            np.minimum(last, _affine(row, x, residue, divs) // -along_x, out=last)
    if not upper or not lower:
        raise ValueError("the pairs of a row are not bounded")
    gaps: dict[int, Ints] = {}
    for u, above in upper:
        for v, below in lower:
            gap = above - below + 1
            gaps[u - v] = np.minimum(gaps[u - v], gap) if u - v in gaps else gap
    lines = [(slope, np.broadcast_to(gap, x.shape)) for slope, gap in gaps.items()]
    return np.flatnonzero(kept), *_under(lines, first, np.maximum(last, first - 1, out=last))


def _under(lines: list[tuple[int, Ints]], first: Ints, last: Ints) -> tuple[Ints, Ints]:
    """Series that add up, for each entry, ``max(0, min over lines of slope * t + offset)`` over ``first <= t <= last``.

    Each by the sum of its two ends, and its length.
    """
    cuts = [first - 1, last]
    for i, (slope, offset) in enumerate(lines):
        if slope:
            zero = -offset // slope
            cuts += [zero - 1, zero]
        for other, shift in lines[:i]:
            cross = (shift - offset) // (slope - other)
            cuts += [cross - 1, cross]
    _spend(len(cuts) * (len(lines) + 4) * len(first))
    edges = np.stack(cuts)
    np.clip(edges, cuts[0], cuts[1], out=edges)
    edges.sort(axis=0)

    def height(t: Ints) -> Ints:
        (slope, offset), *rest = lines
        least: Ints = slope * t + offset
        for slope, offset in rest:
            np.minimum(least, slope * t + offset, out=least)
        np.maximum(least, 0, out=least)
        return least

    low, high = edges[:-1] + 1, edges[1:]
    width = np.maximum(high - low + 1, 0)
    return np.where(width > 0, height(low) + height(high), 0), width
