"""Derivatives of a score expression by the score and by each entry of an input that it reads.

>>> from attnspec.spec.expr import Var
>>> cap = r.Product(r.Real(50.0), r.Apply("tanh", r.Quotient(r.Score(), r.Real(50.0))))
>>> by = derivatives(r.Product(r.RealRead("slope", (Var("h"),)), cap))
>>> sorted(map(type, by), key=lambda kind: kind.__name__) == [r.RealRead, r.Score]
True
>>> by[r.RealRead("slope", (Var("h"),))] == cap
True
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

from attnspec.spec import contents
from attnspec.spec import real as r

Leaf = r.Score | r.RealRead
SIGN = "sign"
"""-1, 0 or 1: the derivative of ``abs``, which is no function of the language."""

_ZERO, _ONE = r.Real(0.0), r.Real(1.0)


def derivatives(real: r.RealExpr) -> dict[Leaf, r.RealExpr]:
    """The derivative by the score and by each distinct read, in the order in which they occur; none for what does not.

    A branch that is not taken adds nothing, even where it has no value.
    """
    return _backward(real, _ONE)


def _backward(node: r.RealExpr, by: r.RealExpr) -> dict[Leaf, r.RealExpr]:
    """The derivatives of the whole through ``node``, where ``by`` is the derivative of the whole by ``node``."""
    if by == _ZERO:
        return {}
    match node:
        case r.Real() | r.Cast() | r.Parameter() | r.Item():
            return {}
        case r.Score() | r.RealRead():
            return {node: by}
        case r.Total(terms):
            return _merge(_backward(term, by) for term in terms)
        case r.Product(left, right):
            return _merge((_backward(left, product(by, right)), _backward(right, product(by, left))))
        case r.Quotient(left, right):
            down = product(r.Real(-1.0), quotient(product(by, node), right))
            return _merge((_backward(left, quotient(by, right)), _backward(right, down)))
        case r.Apply(function, arg):
            return _backward(arg, _applied(function, node, arg, by))
        case r.Choose(cond, then, other):
            taken, left_out = _backward(then, by), _backward(other, by)
            leaves = dict.fromkeys((*taken, *left_out))
            return {leaf: r.Choose(cond, taken.get(leaf, _ZERO), left_out.get(leaf, _ZERO)) for leaf in leaves}
    raise TypeError(f"not a real expression: {type(node).__name__}")


def _applied(function: str, node: r.Apply, arg: r.RealExpr, by: r.RealExpr) -> r.RealExpr:
    """``by`` times the derivative of a function, in terms of its value (``node``) where that is known already."""
    match function:
        case "tanh":
            return product(by, r.Total((_ONE, product(r.Real(-1.0), r.Product(node, node)))))
        case "exp":
            return product(by, node)
        case "log":
            return quotient(by, arg)
        case "sqrt":
            return quotient(product(r.Real(0.5), by), node)
        case "abs":
            return product(by, r.Apply(SIGN, arg))
        case "relu":
            return product(by, r.Choose(r.Order(">", arg, _ZERO), _ONE, _ZERO))
        case "elu":
            return product(by, r.Choose(r.Order(">", arg, _ZERO), _ONE, r.Apply("exp", arg)))
        case "sigmoid":
            return product(by, r.Product(node, r.Apply("sigmoid", r.Product(r.Real(-1.0), arg))))
        case "softplus":
            return product(by, r.Apply("sigmoid", arg))
        case "sign":
            return _ZERO
    raise TypeError(f"not a function of one real: {function}")


def _merge(parts: Iterable[dict[Leaf, r.RealExpr]]) -> dict[Leaf, r.RealExpr]:
    merged: dict[Leaf, r.RealExpr] = {}
    for part in parts:
        for leaf, value in part.items():
            merged[leaf] = total(merged[leaf], value) if leaf in merged else value
    return merged


def total(left: r.RealExpr, right: r.RealExpr) -> r.RealExpr:
    """A sum, without zeros. (These three simplify where :mod:`attnspec.spec.make` keeps what the user wrote.)"""
    match left, right:
        case (r.Real(0.0), other) | (other, r.Real(0.0)):
            return other
        case r.Real(a), r.Real(b):
            return r.Real(a + b)
        case r.Total(terms), _:
            return r.Total((*terms, right))
    return r.Total((left, right))


def product(left: r.RealExpr, right: r.RealExpr) -> r.RealExpr:
    """A product, with the constants (literals, what follows from parameters) in front and without ones."""
    (a, x), (b, y) = _split(left), _split(right)
    factor = _factor((*_factors(a), *_factors(b)))
    rest = y if x is None else x if y is None else r.Product(x, y)
    if rest is None or factor == _ZERO:
        return factor
    return rest if factor == _ONE else r.Product(factor, rest)


def _split(node: r.RealExpr) -> tuple[r.RealExpr, r.RealExpr | None]:
    """The constant in front of a product, and the rest."""
    if _constant(node):
        return node, None
    if isinstance(node, r.Product) and _constant(node.left):
        return node.left, node.right
    return _ONE, node


def _factors(constant: r.RealExpr) -> tuple[r.RealExpr, ...]:
    if isinstance(constant, r.Product):
        return *_factors(constant.left), *_factors(constant.right)
    return (constant,)


def _factor(factors: Iterable[r.RealExpr]) -> r.RealExpr:
    """The product of constants: one literal, then what follows from parameters; what divides itself cancels."""
    number, rest = 1.0, list[r.RealExpr]()
    for factor in factors:
        inverse = factor.right if isinstance(factor, r.Quotient) and factor.left == _ONE else r.Quotient(_ONE, factor)
        if isinstance(factor, r.Real):
            number *= factor.value
        elif inverse in rest:
            rest.remove(inverse)
        else:
            rest.append(factor)
    if number == 0.0 or not rest:
        return r.Real(number)
    first = rest if number == 1.0 else [r.Real(number), *rest]
    return reduce(r.Product, first)


def _constant(node: r.RealExpr) -> bool:
    """Whether a real is a literal, or follows from parameters."""
    if isinstance(node, r.Real | r.Parameter):
        return True
    return contents.settled(node) and any(isinstance(part, r.Parameter | r.Item) for part in contents.walk(node))


def quotient(left: r.RealExpr, right: r.RealExpr) -> r.RealExpr:
    """A quotient; one by a constant becomes a product."""
    match left, right:
        case r.Real(0.0), _:
            return _ZERO
        case r.Product(r.Real(a), rest), r.Real(b) if b:
            return product(r.Real(a / b), rest)
        case _, r.Real(b) if b:
            return product(r.Real(1.0 / b), left)
        case _ if not isinstance(right, r.Real) and _constant(right):
            return product(r.Quotient(_ONE, right), left)
    return r.Quotient(left, right)
