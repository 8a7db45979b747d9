"""Real-valued expressions: what a ``score`` or ``sink`` line computes (DESIGN 2.9).

They live beside the integer expressions of :mod:`attnspec.spec.expr`, which they contain wherever they read positions.

>>> from attnspec.spec.expr import Add, Mul, Int, Var
>>> print(Total((Score(), Product(RealRead("slope", (Var("h"),)), Cast(Add((Var("k"), Mul(Int(-1), Var("q")))))))))
s + slope[h] * (k - q)
"""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.spec import expr as e

FUNCTIONS = frozenset({"tanh", "exp", "log", "sqrt", "abs"})
"""Functions of one real."""


class RealExpr(e.Node):
    """A real-valued expression."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Real(RealExpr):
    """A constant."""

    value: float


@dataclass(frozen=True, slots=True)
class Score(RealExpr):
    """``s``: the score so far, ``scale * dot(q, k)`` before the first score line."""


@dataclass(frozen=True, slots=True)
class Cast(RealExpr):
    """An integer as a real."""

    arg: e.IntExpr


@dataclass(frozen=True, slots=True)
class RealRead(RealExpr):
    """``slope[h]``: an entry of a float input, with one index for each dimension; 0 outside the tensor."""

    name: str
    indices: tuple[e.IntExpr, ...]


@dataclass(frozen=True, slots=True)
class Total(RealExpr):
    """The sum of all terms."""

    terms: tuple[RealExpr, ...]


@dataclass(frozen=True, slots=True)
class Product(RealExpr):
    """A product."""

    left: RealExpr
    right: RealExpr


@dataclass(frozen=True, slots=True)
class Quotient(RealExpr):
    """A quotient."""

    left: RealExpr
    right: RealExpr


@dataclass(frozen=True, slots=True)
class Apply(RealExpr):
    """One of FUNCTIONS."""

    function: str
    arg: RealExpr


@dataclass(frozen=True, slots=True)
class Choose(RealExpr):
    """``if cond then then else other``."""

    cond: e.Pred
    then: RealExpr
    other: RealExpr
