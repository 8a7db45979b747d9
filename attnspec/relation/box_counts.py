"""How many pairs there are in each of many rectangles, at once.

>>> from attnspec.relation.presburger import Pairs
>>> near = Pairs.read("0 <= x - y < 3").pieces()
>>> low = np.array([0, 10, 20])
>>> count_boxes(near, (low, low + 10), (low * 0, low + 2)).tolist()
[6, 9, 9]
"""

from __future__ import annotations

from math import gcd, lcm

import numpy as np

from attnspec.relation.count import Ints, Piece, TooIrregular, guard, polygons

WORK = 10_000_000
"""Residue pairs of all rectangles: about a second."""
_CHUNK = 1 << 15

Ends = tuple[Ints, Ints]
"""Where each rectangle begins and ends on a side."""


def count_boxes(pieces: tuple[Piece, ...], rows: Ends, keys: Ends, stride: int = 1, most: int = WORK) -> Ints:
    """How many pairs of pieces, which are disjoint, each rectangle has.

    ``rows`` and ``keys`` go from their beginnings in steps of ``stride`` to before their ends. Raises TooIrregular
    where the divisors are too large and too different: with more than ``most`` residue pairs of all rectangles.
    """
    total = np.zeros(len(rows[0]), dtype=np.int64)
    for piece in pieces:
        guard(piece)
        step, y_grows = piece.period(2)
        period, x_grows = piece.period(1)
        by_y, by_x = lcm(step, stride) // step, lcm(period, stride) // period
        slopes = [
            (
                (row[2] * step + sum(c * g for c, g in zip(row[3:], y_grows, strict=True))) * by_y,
                (row[1] * period + sum(c * g for c, g in zip(row[3:], x_grows, strict=True))) * by_x,
            )
            for row in piece.rows
        ]
        step, period = step * by_y, period * by_x
        widen = lcm(*(abs(y) // gcd(y, x) for y, x in slopes if y), 1)
        wide, period = [(y, x * widen) for y, x in slopes], period * widen
        # Rectangles that are shorter than a period have no more residues than rows.
        down = min(period // stride, int(((rows[1] - rows[0] - 1) // stride).max(initial=-1)) + 1)
        across = min(step // stride, int(((keys[1] - keys[0] - 1) // stride).max(initial=-1)) + 1)
        if down < 1 or across < 1:
            continue
        if down * across * len(total) > most:
            raise TooIrregular
        for start in range(0, down * across * len(total), _CHUNK):
            flat = np.arange(start, min(start + _CHUNK, down * across * len(total)), dtype=np.int64)
            box, rest = flat // (down * across), flat % (down * across)
            x, y = rows[0][box] + stride * (rest // across), keys[0][box] + stride * (rest % across)
            inside = (x < rows[1][box]) & (y < keys[1][box])
            box, x, y = box[inside], x[inside], y[inside]
            above = (keys[1][box] - 1 - y) // step
            kept, areas = polygons(piece, x, y, wide, period, rows[1][box], above)
            np.add.at(total, box[kept], areas)
    return total
