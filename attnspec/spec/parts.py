"""What a checked pattern is made of, each part with its text, and how little its meaning needs to know of the whole.

>>> print(Axis("token", e.Var("n"), keys=False))
axis token[n] queries
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Protocol

from attnspec.errors.source import Span
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.real import RealExpr, Reals, Score
from attnspec.spec.weights import SOFTMAX, Weights

Value = int | float | tuple[e.Nested, ...] | tuple[Reals, ...]
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
    """One softmax of a mixture: a union of ``attend`` restricted by ``within``, counted ``times`` times.

    Lines of its own come on top of those that hold for all branches: ``score`` reads the score that they give, and
    ``rotations`` turn other dimensions. With a ``share`` the mixture is the sum of its branches' outputs times these.
    """

    attend: tuple[Clause, ...]
    within: tuple[Clause, ...]
    times: int = 1
    share: RealExpr | None = None
    score: RealExpr = field(default_factory=Score)
    scale: float | None = None
    rotations: tuple[Rotation, ...] = ()
    normalized: frozenset[str] = frozenset()
    weights: Weights = SOFTMAX

    @property
    def alike(self) -> bool:
        """Whether it says which pairs there are, and nothing else: as branches that one kernel computes together."""
        return self == Branch(self.attend, self.within, self.times)

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

    def __str__(self) -> str:
        only = "" if self.queries and self.keys else " keys" if self.keys else " queries"
        return f"axis {self.name}[{self.size}]{only}"


@dataclass(frozen=True)
class Random:
    """Integers in ``low .. high - 1`` drawn from a seed: what an input holds where the call does not give it."""

    low: e.IntExpr
    high: e.IntExpr
    seed: int


ANY_SIZE = e.Var("_")
"""The size of an input that is whatever comes with the call."""

VECTOR_SIZES = frozenset({"dim", "dim_v", "features"})
"""Sizes of an input that are those of the vectors of a call: of queries and keys, of values, and after the map."""


@dataclass(frozen=True)
class Input:
    """A tensor that comes with the call.

    ``kind`` is ``"int"``, ``"bool"`` or ``"float"``; ``sizes`` are expressions over batch, heads, kv_heads, n, n_q, or
    ANY_SIZE.
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

    def __str__(self) -> str:
        sizes = f"[{', '.join(map(str, self.sizes))}]" if self.sizes else ""
        form = "" if self.form == "plain" else f" {self.form}"
        if self.random is not None:
            form = f" random({e.Range(self.random.low, self.random.high)}, {self.random.seed})"
        return f"input {self.name}: {self.kind}{sizes}{form}"


@dataclass(frozen=True)
class Order:
    """Positions sorted by (LSH bucket, position), ``rounds`` times with other rotations, one round after another.

    Slots count through all rounds: slot ``r * n + i`` is the i-th place of round r. Reformer (Kitaev et al., 2020).
    """

    buckets: tuple[int, ...]
    rounds: int
    seed: int


Setting = float | int | str | tuple[float, ...] | RealExpr
"""The value of an option: a constant, a word, a list of numbers, or a formula that is worked out at the call."""


@dataclass(frozen=True)
class Rotation:
    """``rope``, ``xpos`` or ``yarn`` with its options, and the positions by which queries and keys turn.

    Formulas, positions among them, may read sizes and inputs, and by pair of dimensions ``pair`` and ``pairs``.
    """

    kind: str
    options: tuple[tuple[str, Setting], ...]
    q: e.IntExpr | RealExpr
    k: e.IntExpr | RealExpr
    constant: bool = field(init=False, compare=False)
    """Whether frequencies and attention factor are the same in every call (found once: torch.compile reads it)."""

    def __post_init__(self) -> None:
        same = all(not contents.varies(node) and contents.free(node) <= e.PAIRS for node in self.formulas)
        object.__setattr__(self, "constant", same)

    @property
    def formulas(self) -> tuple[RealExpr, ...]:
        """The options that are worked out at the call."""
        return tuple(value for _, value in self.options if isinstance(value, RealExpr))

    @property
    def expressions(self) -> tuple[e.IntExpr | RealExpr, ...]:
        """Everything that is worked out at the call."""
        return (self.q, self.k, *self.formulas)

    @property
    def start(self) -> int:
        """The first dimension of a head that is turned."""
        return int(dict(self.options).get("start", 0))  # type: ignore[arg-type]

    @property
    def dims(self) -> int:
        """How many dimensions are turned; 0: all from the first on."""
        return int(dict(self.options).get("dims", 0))  # type: ignore[arg-type]


class Pattern(Protocol):
    """What :mod:`attnspec.spec.meaning` and :mod:`attnspec.spec.arrays` read of a spec (they cannot import it)."""

    @property
    def name(self) -> str:
        """Said in messages."""

    @property
    def span(self) -> Span:
        """The text, which messages point at."""

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What a call must bring."""

    @property
    def order(self) -> Order | None:
        """The computed order, if there is one."""

    @property
    def mixture(self) -> tuple[Branch, ...]:
        """The branches of a mixture; then, and with an order, pairs are counted."""

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The softmaxes, each with its whole predicate."""

    def offset(self, n: int, n_q: int, /) -> int:
        """The position of query row 0."""
