"""Build core expressions, folding what is constant: the printed spec reads as a person would write it.

Only what keeps the meaning is folded. A product with zero is kept when it reads a list, because a comparison around a
read outside the list is false whatever the read is multiplied with.

>>> from attnspec.spec.expr import Int, Var
>>> str(add([Var("q"), negative(Var("k")), Int(2), Int(-2)]))
'q - k'
>>> print(quotient(r.Score(), product(r.Real(2.0), r.Real(4.0))))
s / 8.0
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import overload

from attnspec.spec import contents, exact
from attnspec.spec import expr as e
from attnspec.spec import real as r
from attnspec.spec.contents import reads_list

Number = e.IntExpr | r.RealExpr
MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
FLIPPED = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}


class NotFinite(Exception):
    """Raised where a real constant is infinite or undefined."""


def add(parts: Iterable[e.IntExpr]) -> e.IntExpr:
    """A sum, flat, with its constants collected where the first of them stands."""
    terms: list[e.IntExpr] = []
    constant, place = 0, None
    for part in parts:
        for term in part.terms if isinstance(part, e.Add) else (part,):
            if isinstance(term, e.Int):
                constant = exact.limited(constant + term.value)
                place = len(terms) if place is None else place
            else:
                terms.append(term)
    if constant and place is not None:
        terms.insert(place, e.Int(constant))
    if not terms:
        return e.Int(0)
    return terms[0] if len(terms) == 1 else e.Add(tuple(terms))


@overload
def negative(x: e.IntExpr) -> e.IntExpr: ...
@overload
def negative(x: Number) -> Number: ...
def negative(x: Number) -> Number:
    """``-x``."""
    match x:
        case e.Int(value):
            return e.Int(-value)
        case e.Mul(e.Int(-1), right):
            return right
        case e.IntExpr():
            return e.Mul(e.Int(-1), x)
        case r.Real(value):
            return r.Real(-value)
    return r.Product(r.Real(-1.0), x)


def multiply(a: e.IntExpr, b: e.IntExpr) -> e.IntExpr:
    """``a * b``."""
    if isinstance(a, e.Int) and isinstance(b, e.Int):
        return e.Int(exact.limited(a.value * b.value))
    for x, y in ((a, b), (b, a)):
        if x == e.Int(1):
            return y
        if x == e.Int(0) and not reads_list(y):
            return x
        if x == e.Int(-1):
            return negative(y)
    return e.Mul(a, b)


def divide(a: e.IntExpr, b: e.IntExpr) -> e.IntExpr:
    """``a // b``."""
    if isinstance(b, e.Int) and b.value > 0:
        if isinstance(a, e.Int):
            return e.Int(a.value // b.value)
        if b.value == 1:
            return a
    return e.FloorDiv(a, b)


def modulo(a: e.IntExpr, b: e.IntExpr) -> e.IntExpr:
    """``a % b``."""
    if isinstance(b, e.Int) and b.value > 0:
        if isinstance(a, e.Int):
            return e.Int(a.value % b.value)
        if b.value == 1 and not reads_list(a):
            return e.Int(0)
    return e.Mod(a, b)


def power(a: e.IntExpr, b: e.IntExpr) -> e.IntExpr:
    """``a ** b``."""
    if isinstance(a, e.Int) and isinstance(b, e.Int) and b.value >= 0:
        return e.Int(exact.power(a.value, b.value))
    return a if b == e.Int(1) else e.Pow(a, b)


def minimum(args: tuple[e.IntExpr, ...]) -> e.IntExpr:
    """``min(...)``, its constants collected."""
    return _extreme(args, least=True)


def maximum(args: tuple[e.IntExpr, ...]) -> e.IntExpr:
    """``max(...)``, its constants collected."""
    return _extreme(args, least=False)


def _extreme(args: tuple[e.IntExpr, ...], least: bool) -> e.IntExpr:
    kind = e.Min if least else e.Max
    constants = [a.value for a in args if isinstance(a, e.Int)]
    rest = [a for a in args if not isinstance(a, e.Int)]
    if constants:
        rest.append(e.Int(min(constants) if least else max(constants)))
    return rest[0] if len(rest) == 1 else kind(tuple(rest))


def absolute(x: e.IntExpr) -> e.IntExpr:
    """``|x|``."""
    return e.Int(abs(x.value)) if isinstance(x, e.Int) else e.Abs(x)


@overload
def choose(cond: e.Pred, then: e.IntExpr, other: e.IntExpr) -> e.IntExpr: ...
@overload
def choose(cond: e.Pred, then: Number, other: Number) -> Number: ...
def choose(cond: e.Pred, then: Number, other: Number) -> Number:
    """``if cond then then else other`` for numbers: a real where one of them is."""
    if isinstance(then, e.IntExpr) and isinstance(other, e.IntExpr):
        if isinstance(cond, e.Bool):
            return then if cond.value else other
        return e.If(cond, then, other)
    if isinstance(cond, e.Bool):
        return real(then if cond.value else other)
    return r.Choose(cond, real(then), real(other))


def order(op: str, a: Number, b: Number) -> e.Pred:
    """``a op b``, of reals."""
    x, y = value(a), value(b)
    return r.Order(op, real(a), real(b)) if x is None or y is None else e.Bool(e.COMPARE[op](x, y))


def extreme(op: str, args: Sequence[Number]) -> Number:
    """The largest (``>=``) or the smallest (``<=``) of some numbers, a real where one of them is."""
    whole = tuple(x for x in args if isinstance(x, e.IntExpr))
    if len(whole) == len(args):
        return maximum(whole) if op == ">=" else minimum(whole)
    result, *rest = args
    for x in rest:
        result = choose(order(op, result, x), real(result), real(x))
    return result


def real_power(base: Number, exponent: Number) -> r.RealExpr:
    """``base ** exponent`` where one is a real: a product for a small whole exponent, else of a positive base only."""
    known = constant(exponent)
    if known == 0.5:
        return real(apply("sqrt", base))
    if known is None or known % 1 or abs(known) > MAX_FACTORS:
        return real(apply("exp", product(exponent, apply("log", real(base)))))
    result: r.RealExpr | None = None
    square, left = real(base), int(abs(known))
    while left:
        if left % 2:
            result = square if result is None else product(result, square)
        square, left = product(square, square), left // 2
    if result is None:
        return r.Real(1.0)
    return quotient(r.Real(1.0), result) if known < 0 else result


def choose_pred(cond: e.Pred, then: e.Pred, other: e.Pred) -> e.Pred:
    """``if cond then then else other`` for predicates."""
    if isinstance(cond, e.Bool):
        return then if cond.value else other
    return disjunction([conjunction([cond, then]), conjunction([negation(cond), other])])


def compare(op: str, a: e.IntExpr, b: e.IntExpr) -> e.Pred:
    """``a op b``."""
    if isinstance(a, e.Int) and isinstance(b, e.Int):
        return e.Bool(e.COMPARE[op](a.value, b.value))
    return e.Cmp(op, a, b)


def conjunction(parts: Iterable[e.Pred]) -> e.Pred:
    """``a and b and ...``, flat."""
    return _junction(e.And, parts, absorbing=False)


def disjunction(parts: Iterable[e.Pred]) -> e.Pred:
    """``a or b or ...``, flat."""
    return _junction(e.Or, parts, absorbing=True)


def _junction(kind: type[e.And] | type[e.Or], parts: Iterable[e.Pred], absorbing: bool) -> e.Pred:
    args: list[e.Pred] = []
    for part in parts:
        if part == e.Bool(absorbing):
            return part
        if not isinstance(part, e.Bool):
            args.extend(part.args if isinstance(part, kind) else (part,))
    if not args:
        return e.Bool(not absorbing)
    return args[0] if len(args) == 1 else kind(tuple(args))


def negation(x: e.Pred) -> e.Pred:
    """``not x``; a comparison is turned round, unless it reads a list (reading outside one is false both ways)."""
    match x:
        case e.Bool(value):
            return e.Bool(not value)
        case e.Not(arg):
            return arg
        case e.Cmp(op, left, right) if not reads_list(left) and not reads_list(right):
            return e.Cmp(FLIPPED[op], left, right)
    return e.Not(x)


def equivalence(a: e.Pred, b: e.Pred) -> e.Pred:
    """``a == b`` between predicates."""
    if isinstance(a, e.Bool):
        a, b = b, a
    if isinstance(b, e.Bool):
        return a if b.value else negation(a)
    return e.Iff(a, b)


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


MAX_FACTORS = 16
"""The largest whole exponent of a real that is written as a product."""


def constant(x: Number) -> float | None:
    """The value of an expression that reads nothing, folded or not; None if it reads something."""
    try:
        return float(exact.integer(x, {})) if isinstance(x, e.IntExpr) else _constant(_value(x)).value
    except exact.Unknown:
        return None
    except (exact.TooLarge, ZeroDivisionError, ValueError, OverflowError):
        raise NotFinite from None


def _value(x: r.RealExpr) -> float:
    match x:
        case r.Real(number) | r.Parameter(_, number):
            return number
        case r.Item(_, items, indices):
            return exact.real_entry(items, indices)
        case r.Cast(arg):
            return float(exact.integer(arg, {}))
        case r.Total(terms):
            return sum(map(_value, terms))
        case r.Product(left, right):
            return _value(left) * _value(right)
        case r.Quotient(left, right):
            return _value(left) / _value(right)
        case r.Apply(function, arg):
            return SCALAR[function](_value(arg))
        case r.Choose(cond, then, other):
            return _value(then if _holds(cond) else other)
    raise exact.Unknown


def _holds(cond: e.Pred) -> bool:
    match cond:
        case r.Order(op, left, right):
            return bool(e.COMPARE[op](_value(left), _value(right)))
        case e.And(args):
            return all(map(_holds, args))
        case e.Or(args):
            return any(map(_holds, args))
        case e.Not(arg):
            return not _holds(arg)
    return exact.truth(cond, {})


def require_finite(x: r.RealExpr) -> None:
    """Raise NotFinite where a part that follows from parameters is not finite, or is 0 and divides."""
    for part in contents.walk(x):
        if isinstance(part, r.Parameter | r.Item):
            break
    else:
        return  # literals have been folded
    _require_finite(x)


def _require_finite(x: e.Node) -> bool:
    """The same of all parts; whether the whole follows from literals and parameters."""
    known = [_require_finite(part) for part in x.children()]
    if not isinstance(x, r.RealExpr):
        return all(known) and not isinstance(x, (e.Var, e.Read, e.Flag, e.Among))
    if isinstance(x, r.Quotient) and known[1] and constant(x.right) == 0:
        raise NotFinite
    settled = all(known) and not isinstance(x, (r.Score, r.RealRead))
    if settled:
        constant(x)
    return settled


def total(terms: Sequence[Number]) -> Number:
    """A sum; its integers are added as such, where the first of them stands."""
    whole = [x for x in terms if isinstance(x, e.IntExpr)]
    if len(whole) == len(terms):
        return add(whole)
    parts: list[r.RealExpr] = []
    for x in terms:
        if isinstance(x, r.RealExpr):
            parts.append(x)
        elif x is whole[0]:
            parts.append(r.Cast(add(whole)))
    values = [value(x) for x in parts]
    if len(parts) == 1:
        return parts[0]
    if None not in values:
        return _constant(sum(v for v in values if v is not None))
    return r.Total(tuple(parts))


def product(a: Number, b: Number) -> r.RealExpr:
    """``a * b``."""
    x, y = value(a), value(b)
    return r.Product(real(a), real(b)) if x is None or y is None else _constant(x * y)


def quotient(a: Number, b: Number) -> r.RealExpr:
    """``a / b``."""
    x, y = value(a), value(b)
    if y == 0 or (isinstance(b, r.Parameter) and b.value == 0):
        raise NotFinite
    return r.Quotient(real(a), real(b)) if x is None or y is None else _constant(x / y)


SCALAR: Mapping[str, Callable[[float], float]] = {
    **{name: getattr(math, name) for name in ("tanh", "exp", "log", "sqrt")},
    "abs": abs,
    "relu": lambda x: max(x, 0.0),
    "elu": lambda x: x if x > 0 else math.expm1(x),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x)),
    "softplus": lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x))),
}
"""Each of FUNCTIONS, of one number."""


def apply(function: str, arg: Number) -> Number:
    """One of FUNCTIONS; ``abs`` of an integer is an integer."""
    if function == "abs" and isinstance(arg, e.IntExpr):
        return absolute(arg)
    x = value(arg)
    if x is None:
        return r.Apply(function, real(arg))
    try:
        return _constant(SCALAR[function](x))
    except (ValueError, OverflowError):
        raise NotFinite from None


def _constant(x: float) -> r.Real:
    if not math.isfinite(x):
        raise NotFinite
    return r.Real(x)
