"""A checked pattern: clauses over positions, every name resolved and every parameter bound.

>>> from attnspec.check import check_text
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
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from attnspec import expr as e
from attnspec.real import RealExpr, Score
from attnspec.source import Span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Value = int | tuple[e.Nested, ...]
"""What a parameter is bound to (booleans are kept as bool)."""


@dataclass(frozen=True)
class Clause:
    """One ``attend`` or ``within`` line; its head group and the group's ``within`` lines are part of the predicate."""

    pred: e.Pred
    span: Span = field(compare=False)

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
    ``form`` is ``"plain"``, ``"sorted"`` (values never decrease along the last dimension) or ``"offsets"`` (given as
    the offsets at which documents begin, ending with n; it reads as the number of the document a position is in).
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

    def mask(
        self, n: int, n_q: int | None = None, heads: int = 1, batch: int = 1, kv_heads: int | None = None
    ) -> NDArray[np.bool_]:
        """The definition: which query row may attend to which key, (batch, heads, n_q, n), bool.

        Raises SpecError where a divisor that depends on the head or the sizes is not positive.
        """
        import numpy as np

        from attnspec.bind import BadDivisor
        from attnspec.bounds import fits
        from attnspec.error import SpecError
        from attnspec.evaluate import holds
        from attnspec.mistakes_of_relation import bad_divisor

        n_q = n if n_q is None else n_q
        # Python's integers where 64 bits might not hold a value: slow, and right.
        kind = np.int64 if fits(self.pred, max(n, n_q), 64) else object
        env = {
            "q": (np.arange(n_q) + self.offset(n, n_q)).astype(kind)[:, None],
            "k": np.arange(n).astype(kind)[None, :],
            "n": n,
            "n_q": n_q,
            "heads": heads,
            "kv_heads": heads if kv_heads is None else kv_heads,
            "batch": batch,
        }
        out = np.empty((batch, heads, n_q, n), dtype=bool)
        for b in range(batch):
            for h in range(heads):
                try:
                    out[b, h] = holds(self.pred, {**env, "b": b, "h": h})
                except BadDivisor as error:
                    raise SpecError([bad_divisor(self.span, error.args[0], h)]) from None
        return out

    def __str__(self) -> str:
        lines = ["    align start"] if self.align == "start" else []
        lines += [f"    attend {c.pred}" for c in self.attend]
        lines += [f"    within {c.pred}" for c in self.within]
        return "\n".join([f"attention {self.name} {{", *lines, "}"])
