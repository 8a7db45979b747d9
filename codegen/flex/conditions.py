"""Loops over tiles as one condition on a query tile and a key tile, for all tiles at once.

>>> from attnspec.relation.loops import For, Lit, Loops, Name, Op, Visit
>>> nest = Loops((For("j", Lit(0), Op("min", (Name("i"), Lit(2))), Lit(1), (Visit(Name("j")),)),))
>>> print(condition(nest))
(j <= i) & (j <= 2)
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from typing import Any

import numpy as np

from attnspec.codegen.flex.printer import SIZES
from attnspec.codegen.flex.text import Text, Value, least, most, where
from attnspec.relation import loops as nest

TILES: Mapping[str, Any] = {"i": Text("i", tensor=True), "j": Text("j", tensor=True)}
Names = Mapping[str, Any]


class NotSolved(Exception):
    """A loop whose variable does not follow from the tile that it visits."""


def condition(loops: nest.Loops, names: Names | None = None, last: nest.Expr | None = None) -> Value:
    """Where the query tile ``i`` visits the key tile ``j``.

    ``names`` are other variables; ``last`` is the last key tile there is, as the loops write it. Raises NotSolved.
    """
    return _any(loops.body, {**SIZES, **TILES, **(names or {})}, last)


def _any(body: tuple[nest.Stmt, ...], names: Names, last: nest.Expr | None) -> Value:
    return reduce(operator.or_, (_holds(stmt, names, last) for stmt in body), np.False_)


def _holds(stmt: nest.Stmt, names: Names, last: nest.Expr | None) -> Value:
    match stmt:
        case nest.Visit(point):
            at = value(point, names)
            return np.True_ if at is names["j"] else names["j"] == at
        case nest.When(cond, body, other):
            test = value(cond, names)
            return test & _any(body, names, last) | ~test & _any(other, names, last)
        case nest.For(var, low, high, step, body):
            v, found = _solved(var, _point(var, body), names)
            inner = {**names, var: v}
            found = reduce(operator.and_, _bounds(v, low, high, names, last), found)
            if step != nest.Lit(1):
                found = found & ((v - value(low, names)) % value(step, names) == 0)
            return found & _any(_without(body, var), inner, last)
    raise TypeError(f"not a statement: {stmt!r}")


def _point(var: str, body: tuple[nest.Stmt, ...]) -> nest.Expr:
    """Where a loop visits. Raises NotSolved where it does so in several places."""
    points = set(_points(body))
    if len(points) != 1 or not any(node == nest.Name(var) for node in _walk(next(iter(points)))):
        raise NotSolved
    return points.pop()


def _points(body: tuple[nest.Stmt, ...]) -> Iterator[nest.Expr]:
    for stmt in body:
        match stmt:
            case nest.Visit(point):
                yield point
            case nest.When(_, inner, other):
                yield from _points((*inner, *other))
            case nest.For():
                raise NotSolved


def _walk(node: nest.Expr) -> Iterator[nest.Expr]:
    yield node
    if isinstance(node, nest.Op):
        for arg in node.args:
            yield from _walk(arg)


def _without(body: tuple[nest.Stmt, ...], var: str) -> tuple[nest.Stmt, ...]:
    """The body with the variable itself in place of what is visited: that it is visited has been said."""
    made: list[nest.Stmt] = []
    for stmt in body:
        match stmt:
            case nest.Visit():
                made.append(nest.Visit(nest.Name("j")))
            case nest.When(cond, inner, other):
                made.append(nest.When(cond, _without(inner, var), _without(other, var)))
    return tuple(made)


def _solved(var: str, point: nest.Expr, names: Names) -> tuple[Any, Value]:
    """The variable for which a loop visits the key tile ``j``, and where there is one. Raises NotSolved."""
    match point:
        case nest.Name(name) if name == var:
            return names["j"], np.True_
        case nest.Op("+" | "-" as op, (left, right)) if not any(node == nest.Name(var) for node in _walk(right)):
            j, more = names["j"], value(right, names)
            return _solved(var, left, {**names, "j": j - more if op == "+" else j + more})
        case nest.Op("+", (left, right)) if not any(node == nest.Name(var) for node in _walk(left)):
            return _solved(var, right, {**names, "j": names["j"] - value(left, names)})
        case nest.Op("*", (nest.Lit(by), inner)) | nest.Op("*", (inner, nest.Lit(by))) if by > 0:
            v, found = _solved(var, inner, {**names, "j": names["j"] // by})
            return v, found & (names["j"] % by == 0)
    raise NotSolved


def _bounds(v: Any, low: nest.Expr, high: nest.Expr, names: Names, last: nest.Expr | None) -> Iterator[Value]:
    """That a variable lies between two ends; what holds of all key tiles is left out."""
    plain = v is names["j"]
    for end in _ends("max", low):
        if not (plain and isinstance(end, nest.Lit) and end.value <= 0):
            yield v >= value(end, names)
    for end in _ends("min", high):
        if not (plain and end == last):
            yield v <= value(end, names)


def _ends(op: str, node: nest.Expr) -> Iterator[nest.Expr]:
    """The bounds of which an end is the largest (or smallest)."""
    match node:
        case nest.Op(found, args) if found == op:
            for arg in args:
                yield from _ends(op, arg)
        case nest.Op("+" | "-" as sign, (nest.Op(found, args), more)) if found == op:
            for arg in args:
                yield from _ends(op, nest.Op(sign, (arg, more)))
        case _:
            yield node


_APPLY: Mapping[str, Callable[..., Any]] = {
    "min": lambda *args: reduce(least, args),
    "max": lambda *args: reduce(most, args),
    "select": where,
    "and": operator.and_,
    "or": operator.or_,
    **nest.ARITHMETIC,
}


def value(node: nest.Expr, names: Names) -> Any:
    """The value of an expression of loops."""
    match node:
        case nest.Lit(number):
            return number
        case nest.Name(name):
            return names[name]
        case nest.Op(op, args):
            return _APPLY[op](*(value(arg, names) for arg in args))
    raise TypeError(f"not a loop expression: {node!r}")
