"""Counts of pairs, bytes and positions that are exact whatever their size: 64 bits, or Python's integers beyond.

>>> large = product(np.array([1 << 40, 3]), 1 << 30)
>>> print(large.tolist() == [1 << 70, 3 << 30], total(large) == (1 << 70) + (3 << 30))
True True
>>> sums(np.array([1, 1, 2]), np.array([5, 6, 7]), 4).tolist()
[0, 11, 7, 0]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[Any]
"""Numbers of at least 0: of 64 bits, or objects, Python's integers, where some are too large for them."""
_MOST = 2.0**62
"""Below this 64 bits hold a number, and the sum of two."""
_FLOATS = 2.0**52
"""Below this floats hold every integer, and so does each sum on the way to it."""


def counts(values: Sequence[int]) -> Counts:
    """Numbers as an array."""
    return np.array(values, dtype=np.int64 if max(values, default=0) < _MOST else object)


def product(values: Counts, number: int) -> Counts:
    """Each times a number."""
    largest = _largest(values)
    return _held(values, largest * number) * number if largest else values


def added(*values: Counts) -> Counts:
    """Arrays of one length, entry by entry."""
    largest = [_largest(one) for one in values]
    first, *rest = [one for one, most in zip(values, largest, strict=True) if most] or values[:1]
    found = _held(first, sum(largest))
    for one in rest:
        found = found + one
    return found


def sums(places: NDArray[np.int64], values: Counts, length: int) -> Counts:
    """How much comes to each of so many places."""
    about = np.bincount(places, values.astype(np.float64), length)
    if about.max(initial=0.0) < _FLOATS:
        return about.astype(np.int64)
    values = _held(values, float(about.max()))
    found = np.zeros(length, dtype=values.dtype)
    np.add.at(found, places, values)
    return found


def total(values: Counts) -> int:
    """All of them together."""
    return sum(map(int, values.ravel().tolist()))


def _largest(values: Counts) -> float:
    return float(values.max()) if len(values) else 0.0


def _held(values: Counts, most: float) -> Counts:
    """Values from which numbers up to ``most`` are worked out."""
    return values if most < _MOST else values.astype(object)
