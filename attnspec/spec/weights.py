"""How much a pair weighs, beyond ``exp(score)``: features, divisors, decay and correction.

>>> from attnspec.check.check import check_text
>>> spec = check_text("attention a { attend causal  linear elu(x) + 1  divide total }")
>>> print(spec.weights)
linear elu(x) + 1
divide total
>>> spec.weights.linear, spec.weights.divides_by_total, spec.weights.never_negative
(True, True, True)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from attnspec.errors.source import Span
from attnspec.spec import contents, make, writing
from attnspec.spec import expr as e
from attnspec.spec import feature as f
from attnspec.spec.real import RealExpr, RealRead, Score

STEP = e.Var("t")
"""The position of a step, in ``decay`` lines."""

LOWEST_STEP = -1000.0
"""What the logarithm of one step counts as where it is lower, minus infinity too: its exponential is 0 in float64."""


@dataclass(frozen=True, slots=True)
class WeightSum(Score):
    """``total``: the sum of the weights of a row; in ``divide each`` that of one feature of its keys."""

    def _write(self) -> writing.Text:
        return "total", writing.ATOM


MASS = RealRead("row.mass", (e.Var("b"), e.Var("h"), e.Var("row")))
"""``mass``: the sum of the features of a row's query, under its name among the inputs of a divisor."""


@dataclass(frozen=True)
class Weights:
    """The weight of query i and key j; by default (softmax) the exponential of their score.

    With features it is ``scale * sum over c of q_ic * k_jc * D_ijc``, and the output of a row is the sum of weighted
    values over ``divide``, an expression over ``total`` and ``mass``; with ``each`` each feature has a ``total`` and a
    divisor of its own. ``D`` is the exponential of the sum of ``decay``, over the positions ``t`` after the earlier of
    the two up to the later one; beside softmax that sum is added to the score. With ``delta`` the values are corrected:
    each loses ``delta`` times itself and gains nothing of what its key recalls of those before. The scale does not
    enter that recall.
    """

    q: RealExpr | None = None
    k: RealExpr | None = None
    divide: RealExpr | None = None
    each: bool = False
    decay: RealExpr | None = None
    delta: RealExpr | None = None
    spans: tuple[tuple[str, Span], ...] = field(default=(), compare=False)
    """Where the lines stand, by their words."""

    @property
    def linear(self) -> bool:
        """Whether weights are products of features, not exponentials of scores."""
        return self.q is not None

    @property
    def softmax_only(self) -> bool:
        """Whether there is nothing here beyond softmax."""
        return self == SOFTMAX

    @property
    def divides_by_total(self) -> bool:
        """Whether the divisor is the sum of the weights, so that it can be handed on as a log-sum-exp."""
        return self.divide == WeightSum() and not self.each

    @property
    def never_negative(self) -> bool:
        """Whether the features are never negative, as far as their text says."""
        return all(side is not None and f.bounds(side)[0] >= 0 for side in (self.q, self.k))

    @property
    def constant(self) -> bool:
        """Whether neither queries nor keys are needed."""
        return all(side is not None and f.is_constant(side) for side in (self.q, self.k))

    def features(self, dim: int) -> int:
        """How many features vectors of ``dim`` entries have on either side; 0 where there are none."""
        return max((f.size(side, dim) for side in (self.q, self.k) if side is not None), default=0)

    @property
    def reads_mass(self) -> bool:
        """Whether the divisor reads the sum of the query's features."""
        parts = () if self.divide is None else contents.walk(self.divide)
        return any(isinstance(part, RealRead) and part.name == MASS.name for part in parts)

    @property
    def by_channel(self) -> bool:
        """Whether features decay each by itself."""
        return self.decay is not None and f.CHANNEL.name in contents.free(self.decay)

    @property
    def favors(self) -> tuple[f.Favor, ...]:
        """The random features of both sides."""
        return tuple(found for side in (self.q, self.k) if side is not None for found in f.favors(side))

    @property
    def running(self) -> bool:
        """Whether features count from a running maximum."""
        return any(found.kernel == "softmax" and found.stable == "running" for found in self.favors)

    @property
    def by_logarithms(self) -> bool:
        """Whether all features of keys are exponentials, kept as logarithms for the divisors that each has."""
        each = self.each and self.k is not None and self.delta is None
        return each and all(map(f.is_exponential, f.parts(self.k)))  # type: ignore[arg-type]

    @property
    def beside_values(self) -> int:
        """How many numbers a state has beside those of values: their sum if it divides, and what it counts from."""
        return (self.divide is not None) + (self.running or self.by_logarithms)

    @property
    def expressions(self) -> tuple[RealExpr, ...]:
        """Everything that is worked out at the call."""
        found = (self.q, self.k, self.divide, self.decay, self.delta)
        return tuple(node for node in found if node is not None)

    def with_own(self, own: Weights) -> Weights:
        """These, which hold for all branches of a mixture, with those of one branch: decays add up."""
        decays = [line for line in (self.decay, own.decay) if line is not None]
        return Weights(
            self.q if own.q is None else own.q,
            self.k if own.k is None else own.k,
            self.divide if own.divide is None else own.divide,
            self.each or own.each,
            make.real(make.total(decays)) if decays else None,
            self.delta if own.delta is None else own.delta,
            tuple({**dict(self.spans), **dict(own.spans)}.items()),
        )

    def span_of(self, word: str, otherwise: Span) -> Span:
        """Where a line stands."""
        return dict(self.spans).get(word, otherwise)

    def lines(self, write: Callable[[RealExpr], str] = str) -> Iterator[str]:
        """The lines of the language."""
        if self.q is not None and self.q == self.k:
            yield f"linear {write(self.q)}"
        else:
            yield from (f"linear {side}: {write(x)}" for side, x in (("q", self.q), ("k", self.k)) if x is not None)
        if self.divide is not None:
            yield f"divide {'each ' if self.each else ''}{write(self.divide)}"
        yield from (f"{word} {write(x)}" for word, x in (("decay", self.decay), ("delta", self.delta)) if x is not None)

    def __str__(self) -> str:
        return "\n".join(self.lines()) or "softmax"


SOFTMAX = Weights()
