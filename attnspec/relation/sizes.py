"""The sizes of one call, and the integers that come with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from attnspec.spec.axes import lengths
from attnspec.spec.spec import Spec

MOST = 1 << 33
"""The largest length that is counted exactly."""

Rows = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Scalar:
    """The values of an integer input that has one for each batch entry and head: a row for each batch entry.

    A single row holds for every batch entry, a single value in a row for every head.

    >>> Scalar.of([[3, 5]]).at(h=1, b=7)
    5
    """

    values: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, values: int | Rows) -> Scalar:
        """From one integer for all, or from rows."""
        if isinstance(values, int):
            return cls(((values,),))
        return cls(tuple(tuple(int(v) for v in row) for row in values))

    def at(self, h: int, b: int) -> int:
        """The value for a head of a batch entry."""
        row = self.values[b if len(self.values) > 1 else 0]
        return row[h if len(row) > 1 else 0]


class Held(NamedTuple):
    """What a call holds of a score matrix: from which position, head and batch entry on, and how many.

    Query row r stands at position ``q_start + r``, key r at ``k_start + r``; head h is ``h_start + h`` of the pattern.
    """

    q_start: int
    rows: int
    k_start: int
    keys: int
    h_start: int
    heads: int
    kv_heads: int
    b_start: int
    batch: int


@dataclass(frozen=True)
class Sizes:
    """The sizes of one call; ``aligned_end`` says that the last query row stands at the last key.

    ``m`` is the number that axis lengths are solved for (n where there are no axes); ``scalars`` are the inputs that
    are parameters of the relation, in its order, None (or missing at the end) where the values are not known.
    ``part`` is what a call holds that does not hold all of these sizes.
    """

    n: int
    n_q: int
    heads: int = 1
    kv_heads: int = 1
    batch: int = 1
    aligned_end: bool = True
    m: int | None = None
    scalars: tuple[Scalar | None, ...] = ()
    part: Held | None = None

    def __post_init__(self) -> None:
        for name in ("n", "n_q", "heads", "kv_heads", "batch"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 0 <= value <= MOST:
                raise ValueError(f"{name} must be an integer between 0 and 2**33, not {value!r}")

    @property
    def first(self) -> int:
        """The position of query row 0."""
        return self.n - self.n_q if self.aligned_end else 0

    @property
    def group(self) -> int:
        """How many query heads share a key head."""
        return max(1, self.heads // max(1, self.kv_heads))

    @property
    def held(self) -> Held:
        """What the call holds."""
        whole = (self.first, self.n_q, 0, self.n, 0, self.heads, self.kv_heads, 0, self.batch)
        return Held(*whole) if self.part is None else self.part

    def parameters(self, h: int, b: int) -> dict[str, int]:
        """The values of the parameters of sets, for one head and batch entry; scalars only where they are known."""
        return {
            "n": self.n,
            "n_q": self.n_q,
            "h": h,
            "b": b,
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "batch": self.batch,
            "m": self.n if self.m is None else self.m,
            **{f"i{i}": scalar.at(h, b) for i, scalar in enumerate(self.scalars) if scalar is not None},
        }


def resized(pattern: Spec, sizes: Sizes, n: int) -> Sizes:
    """The sizes of a call of another length: of as many queries as keys, or of axes that are sized for ``n``.

    Of a pattern of segments it is no longer than one of them.
    """
    if not pattern.axes:
        return replace(sizes, n=n, n_q=n, m=None, scalars=())
    if pattern.recurrence is not None:
        n = min(n, pattern.recurrence.recur.size)
    keys, queries = lengths(pattern.axes, n)
    return replace(sizes, n=keys, n_q=queries, m=n, scalars=())
