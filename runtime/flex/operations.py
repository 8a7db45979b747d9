"""PyTorch's operations on single entries, as expressions of ours: each takes and gives nodes.

What an operation has no counterpart for raises :class:`Unlike`, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from attnspec.runtime.flex.bits import Unlike, combined, shifted
from attnspec.runtime.flex.values import Node, ends, number, predicate, real
from attnspec.spec import contents, make
from attnspec.spec import expr as e
from attnspec.spec import real as r

Number = e.IntExpr | r.RealExpr


def literal(value: object) -> Node:
    """A number that stands in the function."""
    match value:
        case bool():
            return e.Bool(value)
        case int():
            return e.Int(value)
        case float() if math.isnan(value):
            raise Unlike("nan")
        case float():
            return r.Real(value)
    raise Unlike(f"{type(value).__name__} has no counterpart in the language")


def _whole(a: Node) -> e.IntExpr | None:
    """A number that is whole, whatever its type."""
    x = number(a)
    return x if isinstance(x, e.IntExpr) else x.arg if isinstance(x, r.Cast) else None


def _typed(whole: e.IntExpr, *of: Number) -> Number:
    """A whole number of the type that comes out of others."""
    return whole if all(isinstance(x, e.IntExpr) for x in of) else r.Cast(whole)


def _total(a: Node, b: Node, alpha: Any = 1) -> Node:
    if isinstance(a, e.Pred) and isinstance(b, e.Pred):
        return make.disjunction([a, b])
    return _sum(number(a), number(b) if alpha == 1 else number(_product(number(b), literal(alpha))))


def _sum(a: Number, b: Number) -> Number:
    """``a + b``, on from a sum."""
    x, y = _whole(a), _whole(b)
    if x is not None and y is not None:
        return _typed(make.add([x, y]), a, b)
    if r.Real(0.0) in (a, b):
        return make.real(b if a == r.Real(0.0) else a)
    return make.total([*(a.terms if isinstance(a, r.Total) else (a,)), b])


def _difference(a: Node, b: Node, alpha: Any = 1) -> Node:
    return _sum(number(a), _negative(b if alpha == 1 else _product(number(b), literal(alpha))))


def _negative(a: Node) -> Number:
    x, whole = number(a), _whole(a)
    return make.negative(x) if whole is None else _typed(make.negative(whole), x)


def _product(a: Node, b: Node) -> Node:
    if isinstance(a, e.Pred) and isinstance(b, e.Pred):
        return make.conjunction([a, b])
    x, y = number(a), number(b)
    m, n = _whole(x), _whole(y)
    return make.product(x, y) if m is None or n is None else _typed(make.multiply(m, n), x, y)


def _quotient(a: Node, b: Node, rounding_mode: str | None = None) -> Number:
    x, y = number(a), number(b)
    if rounding_mode is None:
        return make.quotient(make.real(x), make.real(y))
    if not (isinstance(x, e.IntExpr) and isinstance(y, e.IntExpr)):
        raise Unlike("reals are not rounded in the language")
    if rounding_mode == "floor":
        return _floor_divide(x, y)
    return _cut(x, _divisor(y))


def _cut(x: e.IntExpr, size: e.IntExpr) -> e.IntExpr:
    """``x / size`` without what is behind the point."""
    below = isinstance(size, e.Int) and size.value < 0
    whole = make.divide(make.absolute(x), make.negative(size) if below else size)
    turned = make.negative(whole)
    return make.choose(make.compare(">" if below else "<", x, e.Int(0)), turned, whole)


def _divisor(y: Number) -> e.IntExpr:
    """A divisor as the language has it, which may be below 0 where it is a constant."""
    if isinstance(y, e.Int) and y.value:
        return y
    if isinstance(y, e.IntExpr) and contents.free(y) <= {"h"} and not contents.reads(y):
        low = 1 if isinstance(y, e.Pow) else ends(y)[0]
        if low is not None and low > 0:
            return y
    raise Unlike("a divisor must be a whole number that is known, not one that is computed or read")


def _floor_divide(a: Node, b: Node) -> Number:
    x, size = number(a), _divisor(number(b))
    if not isinstance(x, e.IntExpr):
        raise Unlike("reals are not rounded in the language")
    below = isinstance(size, e.Int) and size.value < 0
    return make.divide(make.negative(x), make.negative(size)) if below else make.divide(x, size)


def _remainder(a: Node, b: Node) -> Number:
    x, size = number(a), _divisor(number(b))
    if not isinstance(x, e.IntExpr):
        raise Unlike("reals have no remainder in the language")
    if isinstance(size, e.Int) and size.value < 0:
        return make.negative(make.modulo(make.negative(x), make.negative(size)))
    return make.modulo(x, size)


def _fmod(a: Node, b: Node) -> Number:
    x, size = number(a), _divisor(number(b))
    if not isinstance(x, e.IntExpr):
        raise Unlike("reals have no remainder in the language")
    rest = make.modulo(make.absolute(x), e.Int(abs(size.value)) if isinstance(size, e.Int) else size)
    return make.choose(make.compare("<", x, e.Int(0)), make.negative(rest), rest)


def _absolute(a: Node) -> Number:
    return make.apply("abs", number(a))


def _minimum(a: Node, b: Node) -> Number:
    return make.extreme("<=", [number(a), number(b)])


def _maximum(a: Node, b: Node) -> Number:
    return make.extreme(">=", [number(a), number(b)])


def _clamp(a: Node, low: Node | None = None, high: Node | None = None) -> Number:
    x = number(a)
    if low is not None:
        x = _maximum(x, low)
    return x if high is None else _minimum(x, high)


def _choose(cond: Node, a: Node, b: Node) -> Node:
    test = predicate(cond)
    if isinstance(a, e.Pred) and isinstance(b, e.Pred):
        return make.choose_pred(test, a, b)
    return make.choose(test, number(a), number(b))


def _compare(op: str) -> Callable[[Node, Node], Node]:
    def compared(a: Node, b: Node) -> Node:
        if isinstance(a, e.Pred) and isinstance(b, e.Pred) and op in ("==", "!="):
            same = make.equivalence(a, b)
            return same if op == "==" else make.negation(same)
        x, y = (_whole(side) or number(side) for side in (a, b))
        if isinstance(x, e.IntExpr) and isinstance(y, e.IntExpr):
            return make.compare(op, x, y)
        if isinstance(x, e.IntExpr) and isinstance(y, r.Real):
            return _beside(op, x, y.value)
        if isinstance(x, r.Real) and isinstance(y, e.IntExpr):
            return _beside(make.MIRRORED.get(op, op), y, x.value)
        return make.order(op, x, y)

    return compared


def rounded(a: Node, towards: str) -> e.IntExpr:
    """A real as an integer, where that is a division of integers: ``"floor"``, ``"ceil"`` or ``"trunc"``."""
    if (whole := _whole(a)) is not None:
        return whole
    match number(a):
        case r.Quotient(r.Cast(x), divisor) if (size := make.value(divisor)) is not None and size % 1 == 0 < size:
            by = e.Int(int(size))
            if towards == "trunc":
                return _cut(x, by)
            up = towards == "ceil"
            return make.negative(make.divide(make.negative(x), by)) if up else make.divide(x, by)
    raise Unlike("a real is made whole: divide integers by `//`, or compute it before, for all positions, as a table")


def _rounding(towards: str) -> Callable[[Node], Node]:
    return lambda a: make.real(rounded(a, towards))


def _beside(op: str, x: e.IntExpr, bound: float) -> e.Pred:
    """An integer beside a real constant."""
    if abs(bound) >= 2.0**62:  # which no integer of the language reaches
        return e.Bool(e.COMPARE[op](0.0, bound))
    if bound == int(bound):
        return make.compare(op, x, e.Int(int(bound)))
    if op in ("==", "!="):
        return e.Bool(op == "!=")
    low = math.floor(bound)
    return make.compare("<=", x, e.Int(low)) if op in ("<", "<=") else make.compare(">", x, e.Int(low))


def _conjunction(a: Node, b: Node) -> Node:
    return make.conjunction([predicate(a), predicate(b)])


def _disjunction(a: Node, b: Node) -> Node:
    return make.disjunction([predicate(a), predicate(b)])


def _exclusive(a: Node, b: Node) -> Node:
    return make.negation(make.equivalence(predicate(a), predicate(b)))


def _negation(a: Node) -> Node:
    return make.negation(predicate(a))


def _bitwise(of_bools: Callable[[Node, Node], Node], op: str) -> Callable[[Node, Node], Node]:
    def either(a: Node, b: Node) -> Node:
        if isinstance(a, e.Pred) and isinstance(b, e.Pred):
            return of_bools(a, b)
        return combined(op, _bits(a), _bits(b))

    return either


def _bits(a: Node) -> e.IntExpr:
    """An integer that may be :class:`attnspec.runtime.flex.bits.Packed`."""
    x = a if isinstance(a, e.IntExpr) else number(a)
    if isinstance(x, e.IntExpr):
        return x
    raise Unlike("reals have no bits")


def _shift(sign: int) -> Callable[[Node, Node], Node]:
    def moved(a: Node, b: Node) -> Node:
        by = number(b)
        if not isinstance(by, e.Int):
            raise Unlike("how far bits are shifted must be known")
        return shifted(_bits(a), sign * by.value)

    return moved


def _bitwise_not(a: Node) -> Node:
    return make.negation(a) if isinstance(a, e.Pred) else _difference(e.Int(-1), a)


def _function(name: str) -> Callable[[Node], Node]:
    return lambda a: make.apply(name, real(a))


def _power(a: Node, b: Node) -> Node:
    x, y = number(a), number(b)
    if isinstance(x, e.IntExpr) and isinstance(y, e.Int) and 0 <= y.value <= make.MAX_FACTORS:
        result: e.IntExpr = e.Int(1)
        for _ in range(y.value):
            result = make.multiply(result, x)
        return result
    if isinstance(x, e.IntExpr) and isinstance(y, e.IntExpr):
        if contents.free(x) | contents.free(y) <= {"h"} and not (contents.reads(x) or contents.reads(y)):
            return make.power(x, y)
        raise Unlike("a power of integers must have an exponent that is known")
    return make.real_power(x, y)


def _logarithm(base: float) -> Callable[[Node], Node]:
    return lambda a: make.quotient(make.apply("log", real(a)), r.Real(math.log(base)))


_ONE, _MINUS_ONE, _SLOPE = r.Real(1.0), r.Real(-1.0), r.Real(0.01)


def _leaky(a: Node, slope: Node = _SLOPE) -> Node:
    return make.choose(make.order(">", number(a), r.Real(0.0)), number(a), number(_product(a, slope)))


def _reciprocal(a: Node) -> Node:
    return make.quotient(r.Real(1.0), real(a))


def _sign(a: Node) -> Node:
    x = number(a)
    positive, negative_ = _compare(">")(x, e.Int(0)), _compare("<")(x, e.Int(0))
    return _choose(positive, e.Int(1), _choose(negative_, e.Int(-1), e.Int(0)))


ENTRYWISE: Mapping[str, Callable[..., Node]] = {
    "add": _total,
    "sub": _difference,
    "rsub": lambda a, b, alpha=1: _difference(b, a, alpha),
    "mul": _product,
    "neg": _negative,
    "div": _quotient,
    "true_divide": _quotient,
    "floor_divide": _floor_divide,
    "remainder": _remainder,
    "fmod": _fmod,
    "abs": _absolute,
    **{name: _rounding(name) for name in ("floor", "ceil", "trunc")},
    "minimum": _minimum,
    "maximum": _maximum,
    "clamp": _clamp,
    "clamp_min": lambda a, low: _clamp(a, low),
    "clamp_max": lambda a, high: _clamp(a, None, high),
    "where": _choose,
    "masked_fill": lambda a, cond, value: _choose(cond, value, a),
    **{name: _compare(op) for name, op in zip(("eq", "ne", "lt", "le", "gt", "ge"), e.COMPARE, strict=True)},
    "logical_and": _conjunction,
    "logical_or": _disjunction,
    "logical_xor": _exclusive,
    "logical_not": _negation,
    **dict.fromkeys(("bitwise_and", "__and__"), _bitwise(_conjunction, "&")),
    **dict.fromkeys(("bitwise_or", "__or__"), _bitwise(_disjunction, "|")),
    **dict.fromkeys(("bitwise_xor", "__xor__"), _bitwise(_exclusive, "^")),
    "bitwise_not": _bitwise_not,
    **dict.fromkeys(("__lshift__", "bitwise_left_shift"), _shift(1)),
    **dict.fromkeys(("__rshift__", "bitwise_right_shift"), _shift(-1)),
    **{name: _function(name) for name in ("tanh", "exp", "log", "sqrt", "sigmoid", "relu")},
    "exp2": lambda a: make.real_power(r.Real(2.0), real(a)),
    "log2": _logarithm(2.0),
    "log10": _logarithm(10.0),
    "silu": lambda a: _product(a, _function("sigmoid")(a)),
    "leaky_relu": _leaky,
    "hardtanh": lambda a, low=_MINUS_ONE, high=_ONE: _clamp(a, low, high),
    "pow": _power,
    "reciprocal": _reciprocal,
    "square": lambda a: _product(a, a),
    "rsqrt": lambda a: _reciprocal(_function("sqrt")(a)),
    "sign": _sign,
    **{name: lambda a: a for name in ("clone", "alias", "detach", "lift_fresh", "lift_fresh_copy", "positive")},
}
"""By the name of the operation, without overloads: a function of nodes. Scalars come as nodes too."""
