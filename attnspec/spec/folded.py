"""Expressions with the values of parameters in the place of their names, folded as if these had been written there.

>>> half = r.Parameter("half", 0.5)
>>> print(folded(r.Total((f.Vector(), r.Product(half, half)))))
x + 0.25
"""

from __future__ import annotations

from typing import Any

from attnspec.spec import expr as e
from attnspec.spec import feature as f
from attnspec.spec import make
from attnspec.spec import real as r


def folded(node: r.RealExpr) -> r.RealExpr:
    """The expression over values. Raises :class:`attnspec.spec.make.NotFinite` where one is not finite."""
    return make.real(_number(r.valued(node)))


def _number(node: Any) -> make.Number:
    """A number, made again of its parts."""
    match node:
        case r.Cast(arg):
            return arg
        case r.Total(terms):
            return make.total([_number(term) for term in terms])
        case r.Product(left, right):
            return make.product(_number(left), _number(right))
        case r.Quotient(left, right):
            return make.quotient(_number(left), _number(right))
        case r.Apply(function, arg):
            return make.apply(function, _number(arg))
        case r.Choose(cond, then, other):
            return make.choose(_condition(cond), _number(then), _number(other))
        case f.Whole() | f.Favor() | f.Joined():
            return node.map(lambda part: make.real(_number(part)))
    assert isinstance(node, r.RealExpr)
    return node


def _condition(node: e.Pred) -> e.Pred:
    match node:
        case r.Order(op, left, right):
            return make.order(op, _number(left), _number(right))
        case e.And(args):
            return make.conjunction(map(_condition, args))
        case e.Or(args):
            return make.disjunction(map(_condition, args))
        case e.Not(arg):
            return make.negation(_condition(arg))
    return node
