"""Counting pairs that repeat from block to block of positions: one block is counted, whatever the length.

A pattern inside segments may divide by large numbers in each of them, so that its period is as long as a segment.
Inside one segment most of these divisions are constant.

>>> from attnspec.relation.presburger import Pairs
>>> inside = Pairs.read("floor(x / 3000) = floor(y / 3000) and (x mod 3000) mod 7 = 2 and 0 <= y <= x")
>>> count_pairs(inside, range(6000), 6000) == 2 * sum(range(3, 3000, 7))
True
"""

from __future__ import annotations

from contextlib import suppress
from math import lcm

from attnspec.relation.count import Piece, count
from attnspec.relation.presburger import Pairs, TooHard, budget

_FACTORS = (2, 3, 5, 7)
_CHEAP = 1 << 16
"""Residues of pairs that are counted at once."""


def count_pairs(pairs: Pairs, rows: range, keys: int) -> int:
    """How many pairs without parameters there are with x in ``rows`` (which follow one another) and y below ``keys``.

    Raises TooIrregular where there are too many kinds of them, TooHard where the solver gives up.
    """
    if not rows or not keys:
        return 0
    pieces = _cut(pairs, rows, keys)
    if sum(_residues(piece, len(rows)) for piece in pieces) <= _CHEAP:
        return count(pieces, len(rows), rows.start)
    size = _block(pairs, pieces, rows, keys)
    low, high = 0, 0
    if size is not None:  # then a row below 0 has no pair, and one beyond the last key's block neither
        rows = range(max(0, rows.start), min(rows.stop, -(-keys // size) * size))
        low, high = -(-rows.start // size), min(rows.stop, keys) // size
    if size is None or high - low < 1 or len(rows) <= size:
        return count(pieces, len(rows), rows.start) if rows else 0
    ends = (range(rows.start, low * size), range(high * size, rows.stop))
    whole = _count(pairs, range(low * size, low * size + size), keys)
    return (high - low) * whole + sum(_count(pairs, end, keys) for end in ends if end)


def _count(pairs: Pairs, rows: range, keys: int) -> int:
    return count(_cut(pairs, rows, keys), len(rows), rows.start)


def _cut(pairs: Pairs, rows: range, keys: int) -> tuple[Piece, ...]:
    box = Pairs.read(f"{rows.start} <= x < {rows.stop} and 0 <= y < {keys}")
    with budget(pairs):
        return pairs.intersection(box).pieces()


def _residues(piece: Piece, rows: int) -> int:
    return min(piece.period(1)[0], rows) * piece.period(2)[0]


def _block(pairs: Pairs, pieces: tuple[Piece, ...], rows: range, keys: int) -> int | None:
    """The size of blocks, from 0 on, such that pairs lie in one block and each block has the same; None if unknown.

    Each that is whole: with all its rows, and below the last key.
    """
    size = lcm(*(piece.period(axis)[0] for piece in pieces for axis in (1, 2)))
    found = None
    with suppress(TooHard), budget(pairs):
        box = (max(0, rows.start), min(rows.stop, keys))
        start = pairs.intersection(Pairs.read(f"{box[0]} <= x < {rows.stop} and 0 <= y < {keys}"))
        if _in_blocks(start, size, *box):
            found = size
            for factor in _FACTORS:  # the divisions may be written with a longer period than the pairs have
                while found % factor == 0 and _in_blocks(start, found // factor, *box):
                    found //= factor
    return found


def _in_blocks(start: Pairs, size: int, first: int, end: int) -> bool:
    """Whether pairs lie in one block each, and each block between ``first`` and ``end`` has the same."""
    if not start.within(Pairs.read(f"floor(x / {size}) = floor(y / {size}) and y >= 0")):
        return False
    low, high = -(-first // size) * size, end // size * size
    inner = start.intersection(Pairs.read(f"{low + size} <= x < {high}"))
    return (
        start.intersection(Pairs.read(f"{low} <= x < {high - size}")).image(f"x + {size}", f"y + {size}").equals(inner)
    )
