"""Build real expressions, folding what is constant.

>>> from attnspec.spec.real import Real, Score
>>> print(quotient(Score(), product(Real(2.0), Real(4.0))))
s / 8.0
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from attnspec.spec import exact as known
from attnspec.spec import expr as e
from attnspec.spec import make as s
from attnspec.spec import real as r

Number = e.IntExpr | r.RealExpr


class NotFinite(Exception):
    """Raised where a constant is infinite or undefined."""


def real(x: Number) -> r.RealExpr:
    """A number as a real."""
    return r.Cast(x) if isinstance(x, e.IntExpr) else x


def literal(text: str) -> r.Real:
    """A literal of the language."""
    return _constant(float(text.replace("_", "")))


def value(x: Number) -> float | None:
    """The value of a constant."""
    match x:
        case r.Real(number):
            return number
        case e.Int(whole) | r.Cast(e.Int(whole)):
            return float(whole)
    return None


def constant(x: Number) -> float | None:
    """The value of an expression that reads nothing, folded or not; None if it reads something."""
    try:
        return float(known.integer(x, {})) if isinstance(x, e.IntExpr) else _constant(_value(x)).value
    except known.Unknown:
        return None
    except (known.TooLarge, ZeroDivisionError, ValueError, OverflowError):
        raise NotFinite from None


def _value(x: r.RealExpr) -> float:
    match x:
        case r.Real(number):
            return number
        case r.Cast(arg):
            return float(known.integer(arg, {}))
        case r.Total(terms):
            return sum(map(_value, terms))
        case r.Product(left, right):
            return _value(left) * _value(right)
        case r.Quotient(left, right):
            return _value(left) / _value(right)
        case r.Apply(function, arg):
            return abs(_value(arg)) if function == "abs" else float(getattr(math, function)(_value(arg)))
        case r.Choose(cond, then, other):
            return _value(then if known.truth(cond, {}) else other)
    raise known.Unknown


def total(terms: Sequence[Number]) -> r.RealExpr:
    """A sum; its integers are added as such, where the first of them stands."""
    whole = [x for x in terms if isinstance(x, e.IntExpr)]
    parts: list[r.RealExpr] = []
    for x in terms:
        if isinstance(x, r.RealExpr):
            parts.append(x)
        elif x is whole[0]:
            parts.append(r.Cast(s.add(whole)))
    values = [value(x) for x in parts]
    if len(parts) == 1:
        return parts[0]
    if None not in values:
        return _constant(sum(v for v in values if v is not None))
    return r.Total(tuple(parts))


def negative(x: Number) -> Number:
    """``-x``."""
    if isinstance(x, e.IntExpr):
        return s.negative(x)
    return r.Real(-x.value) if isinstance(x, r.Real) else r.Product(r.Real(-1.0), x)


def product(a: Number, b: Number) -> r.RealExpr:
    """``a * b``."""
    x, y = value(a), value(b)
    return r.Product(real(a), real(b)) if x is None or y is None else _constant(x * y)


def quotient(a: Number, b: Number) -> r.RealExpr:
    """``a / b``."""
    x, y = value(a), value(b)
    if y == 0:
        raise NotFinite
    return r.Quotient(real(a), real(b)) if x is None or y is None else _constant(x / y)


def apply(function: str, arg: Number) -> r.RealExpr:
    """One of FUNCTIONS."""
    x = value(arg)
    if x is None:
        return r.Apply(function, real(arg))
    try:
        return _constant(abs(x) if function == "abs" else getattr(math, function)(x))
    except (ValueError, OverflowError):
        raise NotFinite from None


def choose(cond: e.Pred, then: Number, other: Number) -> r.RealExpr:
    """``if cond then then else other``."""
    if isinstance(cond, e.Bool):
        return real(then if cond.value else other)
    return r.Choose(cond, real(then), real(other))


def _constant(x: float) -> r.Real:
    if not math.isfinite(x):
        raise NotFinite
    return r.Real(x)
