"""Real-valued expressions: what a ``score`` or ``sink`` line computes.

They live beside the integer expressions of :mod:`attnspec.spec.expr`, which they contain wherever they read positions.

>>> from attnspec.spec.expr import Add, Mul, Int, Var
>>> print(Total((Score(), Product(RealRead("slope", (Var("h"),)), Cast(Add((Var("k"), Mul(Int(-1), Var("q")))))))))
s + slope[h] * (k - q)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, Union

from attnspec.spec import expr as e
from attnspec.spec import writing

Reals = Union[float, tuple["Reals", ...]]
"""A real or a nested tuple of them: a list parameter."""


def shape_of(value: Reals) -> tuple[int, ...]:
    """The lengths of a list of reals, level by level; none for a real.

    >>> shape_of(((0.5, 1.0), (2.0, 3.0), (0.0, 1.0)))
    (3, 2)
    """
    return (len(value), *(shape_of(value[0]) if value else ())) if isinstance(value, tuple) else ()


FUNCTIONS = frozenset({"tanh", "exp", "log", "sqrt", "abs", "relu", "elu", "sigmoid", "softplus"})
"""Functions of one real."""


class RealExpr(e.Node):
    """A real-valued expression."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Real(RealExpr):
    """A constant."""

    value: float

    def _write(self) -> writing.Text:
        return writing.number(self.value)

    def _opposite(self) -> Real | None:
        return Real(-self.value) if self.value < 0 else None


@dataclass(frozen=True, slots=True)
class Parameter(RealExpr):
    """A real parameter: a number like any other, but an argument of kernels, so that one serves all its values."""

    name: str
    value: float

    def _write(self) -> writing.Text:
        return self.name, writing.ATOM


@dataclass(frozen=True, slots=True)
class Item(RealExpr):
    """``slopes[h]``: an entry of a list of reals (all of one length on each level), one index per level; 0 outside.

    Kernels get the list as an argument. ``name`` is that of the parameter, empty for a list without one.
    """

    name: str
    items: tuple[Reals, ...]
    indices: tuple[e.IntExpr, ...]

    def _write(self) -> writing.Text:
        return writing.entry(self.name or self.items, self.indices)


@dataclass(frozen=True, slots=True)
class Score(RealExpr):
    """``s``: the score so far, ``scale * dot(q, k)`` before the first score line."""

    def _write(self) -> writing.Text:
        return "s", writing.ATOM


@dataclass(frozen=True, slots=True)
class Frequency(Score):
    """``frequency``: that of RoPE for a pair of dimensions, in the formulas of rotations: what ``s`` is in scores."""

    def _write(self) -> writing.Text:
        return "frequency", writing.ATOM


@dataclass(frozen=True, slots=True)
class Cast(RealExpr):
    """An integer as a real."""

    arg: e.IntExpr

    def _write(self) -> writing.Text:
        return self.arg._write()

    def _opposite(self) -> writing.Written | None:
        return self.arg._opposite()


@dataclass(frozen=True, slots=True)
class RealRead(RealExpr):
    """``slope[h]``: an entry of a float input, with one index for each dimension; 0 outside the tensor."""

    name: str
    indices: tuple[e.IntExpr, ...]

    def _write(self) -> writing.Text:
        return writing.read(self.name, self.indices)


@dataclass(frozen=True, slots=True)
class Total(RealExpr):
    """The sum of all terms."""

    terms: tuple[RealExpr, ...]

    def _write(self) -> writing.Text:
        return writing.total(self.terms)


@dataclass(frozen=True, slots=True)
class Product(RealExpr):
    """A product."""

    left: RealExpr
    right: RealExpr

    def _write(self) -> writing.Text:
        if self.left == Real(-1.0):
            return writing.negative(self.right)
        return writing.product(self.left, "*", self.right)

    def _opposite(self) -> RealExpr | None:
        return self.right if self.left == Real(-1.0) else None


@dataclass(frozen=True, slots=True)
class Quotient(RealExpr):
    """A quotient."""

    left: RealExpr
    right: RealExpr

    def _write(self) -> writing.Text:
        return writing.product(self.left, "/", self.right)


@dataclass(frozen=True, slots=True)
class Apply(RealExpr):
    """One of FUNCTIONS."""

    function: str
    arg: RealExpr

    def _write(self) -> writing.Text:
        return writing.absolute(self.arg) if self.function == "abs" else writing.call(self.function, (self.arg,))


@dataclass(frozen=True, slots=True)
class Order(e.Pred):
    """A comparison of reals, in a condition of a score; ``op`` is one of ``== != < <= > >=``."""

    op: str
    left: RealExpr
    right: RealExpr

    def _write(self) -> writing.Text:
        return f"{self.left._at(writing.SUM)} {self.op} {self.right._at(writing.SUM)}", writing.COMPARE


@dataclass(frozen=True, slots=True)
class Choose(RealExpr):
    """``if cond then then else other``."""

    cond: e.Pred
    then: RealExpr
    other: RealExpr

    def _write(self) -> writing.Text:
        return writing.choice(self.cond, self.then, self.other)


N = TypeVar("N", bound=e.Node)


def valued(node: N) -> N:
    """An expression with the values of parameters in the place of their names."""
    match node:
        case Parameter(_, value):
            return Real(value)  # type: ignore[return-value]
        case Item(_, items, indices):
            return Item("", items, tuple(map(valued, indices)))  # type: ignore[return-value]
    return node.map(valued)
