"""What vectors are mapped to before they meet: the features of ``linear`` lines, as expressions over ``x``.

A feature is a real expression over the vector, worked out at each of its entries, with functions of the whole vector in
it; or random features of such an expression; or several of these, one behind the other.

>>> print(Joined((Whole("softmax", Vector()), Whole("softmax", r.Product(r.Real(-1.0), Vector())))))
[softmax(x), softmax(-x)]
>>> bounds(r.Total((r.Apply("elu", Vector()), r.Real(1.0))))
(0.0, inf)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from attnspec.spec import contents, writing
from attnspec.spec import expr as e
from attnspec.spec import real as r

CHANNEL = e.Var("c")
"""The number of an entry of the vector, or of a feature, from 0."""

WHOLE = frozenset({"softmax", "unit"})
"""Functions of a whole vector: of softmax over its entries, and scaled to unit length."""


@dataclass(frozen=True, slots=True)
class Vector(r.Score):
    """``x``: the query or the key, after rotations."""

    def _write(self) -> writing.Text:
        return "x", writing.ATOM


@dataclass(frozen=True, slots=True)
class Whole(r.RealExpr):
    """One of WHOLE of a vector."""

    function: str
    arg: r.RealExpr

    def _write(self) -> writing.Text:
        return writing.call(self.function, (self.arg,))


@dataclass(frozen=True, slots=True)
class Favor(r.RealExpr):
    """``favor(x, ...)``: random features of the exponential, or of relu, of dot products (Choromanski et al., 2021).

    ``features`` is how many, None for ``int(d ln d)``. See :func:`attnspec.runtime.linear.favor.favor` for the rest.
    """

    arg: r.RealExpr
    features: int | None = None
    seed: int = 0
    kernel: str = "softmax"
    eps: float = 1e-4
    scaling: str = "norm"
    stable: str = "all"
    through_max: bool = False

    def _write(self) -> writing.Text:
        said = [part for part in fields(self)[1:] if getattr(self, part.name) != part.default]
        options = [f"{part.name} = {str(getattr(self, part.name)).replace('True', 'true')}" for part in said]
        return f"favor({', '.join([str(self.arg), *options])})", writing.ATOM


@dataclass(frozen=True, slots=True)
class Joined(r.RealExpr):
    """``[a, b]``: the features of one behind those of the other."""

    parts: tuple[r.RealExpr, ...]

    def _write(self) -> writing.Text:
        return f"[{', '.join(map(str, self.parts))}]", writing.ATOM


def is_constant(feature: r.RealExpr) -> bool:
    """Whether a feature is one number whatever the vector is: then the vector need not be there."""
    reads = contents.free(feature) & {CHANNEL.name, "?"}  # a mistake may be anything
    return not reads and not any(isinstance(part, Vector) for part in contents.walk(feature))


def size(feature: r.RealExpr, dim: int) -> int:
    """How many features there are of vectors of ``dim`` entries.

    >>> size(Joined((Vector(), Favor(Vector(), 5))), 4)
    9
    """
    match feature:
        case Joined(parts):
            return sum(size(part, dim) for part in parts)
        case Favor(features=None):
            return max(1, int(dim * math.log(dim)))
        case Favor(features=int(count)):
            return count
    return 1 if is_constant(feature) else dim


def parts(feature: r.RealExpr) -> tuple[r.RealExpr, ...]:
    """The maps whose features stand one behind the other."""
    return feature.parts if isinstance(feature, Joined) else (feature,)


def is_exponential(part: r.RealExpr) -> bool:
    """Whether a map gives exponentials, whose logarithms are at hand: they may be larger than numbers are.

    >>> is_exponential(r.Apply("exp", Vector())), is_exponential(Vector()), is_exponential(Favor(Vector()))
    (True, False, True)
    """
    if isinstance(part, Favor):
        return part.kernel == "softmax"
    return isinstance(part, r.Apply) and part.function == "exp" and not is_constant(part)


def favors(feature: r.RealExpr) -> tuple[Favor, ...]:
    """The random features in it."""
    return tuple(part for part in contents.walk(feature) if isinstance(part, Favor))


def bounds(node: r.RealExpr) -> tuple[float, float]:
    """Between what the entries of a feature, or any real, lie, as far as its text says; infinite where it does not."""
    match node:
        case r.Real(value) | r.Parameter(_, value):
            return value, value
        case r.Cast(e.Int(value)):
            return float(value), float(value)
        case Joined(joined):
            return _hull(*map(bounds, joined))
        case Favor():
            return 0.0, math.inf
        case Whole("softmax"):
            return 0.0, 1.0
        case Whole("unit"):
            return -1.0, 1.0
        case r.Total(terms):
            parts = list(map(bounds, terms))
            return sum(low for low, _ in parts), sum(high for _, high in parts)
        case r.Product(left, right) if left == right:
            low, high = bounds(left)
            return (0.0 if low <= 0 <= high else min(low * low, high * high)), max(low * low, high * high)
        case r.Product(left, right):
            ends = [_times(x, y) for x in bounds(left) for y in bounds(right)]
            return min(ends), max(ends)
        case r.Quotient(left, right):
            low, high = bounds(right)
            if low > 0 or high < 0:
                ends = [_times(x, y) for x in bounds(left) for y in (1 / low, 1 / high)]
                return min(ends), max(ends)
            return -math.inf, math.inf
        case r.Apply(function, arg):
            return _applied(function, *bounds(arg))
        case r.Choose(r.Order(">=" | "<=" as op, left, right), then, other) if (left, right) == (then, other):
            one, two = bounds(then), bounds(other)
            pick = max if op == ">=" else min
            return pick(one[0], two[0]), pick(one[1], two[1])
        case r.Choose(_, then, other):
            return _hull(bounds(then), bounds(other))
    return -math.inf, math.inf


def _times(x: float, y: float) -> float:
    return 0.0 if 0 in (x, y) else x * y


def _hull(*parts: tuple[float, float]) -> tuple[float, float]:
    return min(low for low, _ in parts), max(high for _, high in parts)


def _applied(function: str, low: float, high: float) -> tuple[float, float]:
    """Of functions that grow, at both ends of what the argument takes on; of the others what they are at least."""
    match function:
        case "abs":
            return (0.0 if low <= 0 <= high else min(abs(low), abs(high))), max(abs(low), abs(high))
        case "sqrt":
            return 0.0, math.inf
        case "relu":
            return max(low, 0.0), max(high, 0.0)
        case "elu":
            return (low if low > 0 else math.expm1(low)), (high if high > 0 else math.expm1(high))
        case "tanh":
            return math.tanh(low), math.tanh(high)
        case "sigmoid":
            return 0.0, 1.0
        case "exp" | "softplus":
            return 0.0, math.inf
    return -math.inf, math.inf
