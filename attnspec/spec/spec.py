"""A checked pattern: clauses over positions, every name resolved and every parameter bound.

>>> from attnspec.check.check import check_text
>>> spec = check_text("attention local(width = 4) { attend 0 <= q - k < width }")
>>> print(spec)
attention local {
    attend 0 <= q - k and q - k < 4
}
>>> spec.mask(n=3).astype(int)[0, 0]
array([[1, 0, 0],
       [1, 1, 0],
       [1, 1, 1]])
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from attnspec.errors.source import Span
from attnspec.spec import expr as e
from attnspec.spec.real import RealExpr, Score

if TYPE_CHECKING:
    from numpy.typing import NDArray

Value = int | tuple[e.Nested, ...]
"""What a parameter is bound to (booleans are kept as bool)."""


@dataclass(frozen=True)
class Clause:
    """One ``attend`` or ``within`` line; its head group and the group's ``within`` lines are part of the predicate.

    For a line between axes, ``arrow`` holds the axes and the predicate with ``q`` and ``k`` counted from 0 in them.
    """

    pred: e.Pred
    span: Span = field(compare=False)
    arrow: tuple[str, str, e.Pred] | None = field(default=None, compare=False)

    @property
    def label(self) -> str:
        """The line as the user wrote it, on one line."""
        return " ".join(re.sub(r"#[^\n]*", "", self.span.text).split())


@dataclass(frozen=True)
class Branch:
    """One softmax of a mixture: a union of ``attend`` restricted by ``within``, counted ``times`` times."""

    attend: tuple[Clause, ...]
    within: tuple[Clause, ...]
    times: int = 1

    @property
    def pred(self) -> e.Pred:
        """The branch as one predicate."""
        union = e.Or(tuple(c.pred for c in self.attend)) if self.attend else e.Bool(True)
        return e.And((union, *(c.pred for c in self.within))) if self.within else union


@dataclass(frozen=True)
class Axis:
    """A part of the sequence; ``size`` is an expression in ``m``, the number that the lengths are solved for."""

    name: str
    size: e.IntExpr
    queries: bool = True
    keys: bool = True


@dataclass(frozen=True)
class Random:
    """Integers in ``low .. high - 1`` drawn from a seed: what an input holds where the call does not give it."""

    low: e.IntExpr
    high: e.IntExpr
    seed: int


@dataclass(frozen=True)
class Input:
    """A tensor that comes with the call.

    ``kind`` is ``"int"``, ``"bool"`` or ``"float"``; ``sizes`` are expressions over batch, heads, kv_heads, n, n_q.
    ``form`` is ``"plain"``, ``"sorted"`` (values never decrease along the last dimension) or ``"offsets"``: read as the
    number of the document that a position is in, and given as the offsets at which documents begin, followed by n (so
    that its last dimension is one longer than there are documents, whatever the last of ``sizes`` says: always n).

    What is derived comes under names with a dot: ``doc.first`` and ``doc.last`` of the size of ``doc``,
    ``order.bucket``, (batch, heads, rounds * n), beside an order, and ``alibi.slope``, (heads,), wherever a score reads
    ALiBi's slopes. Derived things are not in ``Spec.inputs``.
    """

    name: str
    kind: str
    sizes: tuple[e.IntExpr, ...]
    form: str = "plain"
    random: Random | None = None


@dataclass(frozen=True)
class Order:
    """Positions sorted by (LSH bucket, position), ``rounds`` times with other rotations, one round after another.

    Slots count through all rounds: slot ``r * n + i`` is the i-th place of round r. Reformer (Kitaev et al., 2020).
    """

    buckets: tuple[int, ...]
    rounds: int
    seed: int


@dataclass(frozen=True)
class Rotation:
    """``rope``, ``xpos`` or ``yarn`` with all its options, and the positions by which queries and keys turn."""

    kind: str
    options: tuple[tuple[str, float | int | str], ...]
    q: e.IntExpr
    k: e.IntExpr


@dataclass(frozen=True)
class Spec:
    """What a pattern allows: the union of ``attend`` (every pair if there is none), restricted by each of ``within``.

    ``params`` are the values the spec was checked with; ``align`` says where query row 0 stands: with ``"end"`` row i
    has position ``i + n - n_q``, with ``"start"`` position i.
    """

    name: str
    params: tuple[tuple[str, Value], ...]
    attend: tuple[Clause, ...]
    within: tuple[Clause, ...]
    align: str
    doc: str = field(compare=False)
    span: Span = field(compare=False)
    mixture: tuple[Branch, ...] = ()
    """The branches of a mixture, which ``within`` restricts too; ``attend`` is then empty."""
    detached: bool = False
    axes: tuple[Axis, ...] = ()
    inputs: tuple[Input, ...] = ()
    order: Order | None = None
    score: RealExpr = field(default_factory=Score)
    sink: RealExpr | None = None
    scale: float | None = None
    rotations: tuple[Rotation, ...] = ()
    normalized: frozenset[str] = frozenset()
    """Which of ``q`` and ``k`` are scaled to unit length."""

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The softmaxes that are mixed: one where there is no mixture. Each has the common ``within`` lines."""
        if not self.mixture:
            return (Branch(self.attend, self.within),)
        return tuple(Branch(b.attend, (*b.within, *self.within), b.times) for b in self.mixture)

    @cached_property
    def pred(self) -> e.Pred:
        """The whole pattern as one predicate."""
        union = e.Or(tuple(c.pred for c in self.attend)) if self.attend else e.Bool(True)
        return e.And((union, *(c.pred for c in self.within))) if self.within else union

    def offset(self, n: int, n_q: int) -> int:
        """The position of query row 0."""
        return n - n_q if self.align == "end" else 0

    def sizes(
        self, n: int, n_q: int | None = None, heads: int = 1, batch: int = 1, kv_heads: int | None = None
    ) -> dict[str, int]:
        """The sizes of a call by name, with what is solved for beside axes.

        Raises ValueError where axes cannot have these lengths.
        """
        from attnspec.spec.axes import solve

        n_q = n if n_q is None else n_q
        m = solve(self.axes, n, n_q) if self.axes else n
        kv_heads = heads if kv_heads is None else kv_heads
        return {"n": n, "n_q": n_q, "heads": heads, "kv_heads": kv_heads, "batch": batch, "m": m}

    def mask(
        self,
        n: int,
        n_q: int | None = None,
        heads: int = 1,
        batch: int = 1,
        kv_heads: int | None = None,
        inputs: Mapping[str, Any] | None = None,
    ) -> NDArray[Any]:
        """The definition: which query row may attend to which key, (batch, heads, n_q, n).

        Bool; for a mixture and for an order integers: in how many branches (``times`` included), or in how many pairs
        of slots, a pair stands. ``inputs`` holds the arrays that the spec declares, and for an order ``buckets``,
        (batch, heads, rounds, n): the bucket of each position in each round. See :mod:`attnspec.spec.meaning`.

        Raises ValueError where an input is missing or does not fit, SpecError where a divisor that depends on the head
        or the sizes is not positive.
        """
        from attnspec.spec.meaning import mask

        return mask(self, self.sizes(n, n_q, heads, batch, kv_heads), inputs or {})

    def __str__(self) -> str:
        from attnspec.text import text

        return text(self)
