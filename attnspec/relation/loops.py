"""Loops that visit the integer points of a set in order: what isl's code generator prints, as our own small tree.

Three statements (``For``, ``When``, ``Visit``) over integer arithmetic. One tree serves the plan's text, the C++ kernel
and running it in Python.

>>> nest = Loops((For("j", Lit(0), Op("min", (Name("i"), Lit(2))), Lit(1), (Visit(Name("j")),)),))
>>> print(nest)
for j in 0 .. min(i, 2):
    visit j
>>> nest.points({"i": 5})
[0, 1, 2]
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Union


@dataclass(frozen=True, slots=True)
class Lit:
    """An integer."""

    value: int


@dataclass(frozen=True, slots=True)
class Name:
    """A loop variable or a parameter."""

    name: str


@dataclass(frozen=True, slots=True)
class Op:
    """An operation: ``+ - * // % min max neg select == <= < >= > and or``; ``//`` and ``%`` round downwards."""

    op: str
    args: tuple[Expr, ...]


Expr = Union[Lit, Name, Op]


@dataclass(frozen=True, slots=True)
class For:
    """``var`` runs from ``low`` to ``high`` (included) by ``step``."""

    var: str
    low: Expr
    high: Expr
    step: Expr
    body: tuple[Stmt, ...]


@dataclass(frozen=True, slots=True)
class When:
    """``body`` where ``cond`` holds, else ``other``."""

    cond: Expr
    body: tuple[Stmt, ...]
    other: tuple[Stmt, ...]


@dataclass(frozen=True, slots=True)
class Visit:
    """A point of the set."""

    point: Expr


Stmt = Union[For, When, Visit]


@dataclass(frozen=True, slots=True)
class Loops:
    """A loop nest that visits each point of a one-dimensional set exactly once."""

    body: tuple[Stmt, ...]

    def __str__(self) -> str:
        return "\n".join(_lines(self.body, 0)) or "nothing"

    @property
    def size(self) -> int:
        """The number of nodes: a measure of how unwieldy the closed form is."""
        return sum(_size(s) for s in self.body)

    @property
    def visits(self) -> int:
        """The number of places where a point is visited."""
        return sum(map(_visits, self.body))

    def points(self, env: Mapping[str, int]) -> list[int]:
        """The points for given parameter values, in the order in which the loops visit them."""
        return list(_run(self.body, dict(env)))


_STRENGTH = {"or": 0, "and": 1, "==": 2, "<=": 2, "<": 2, ">=": 2, ">": 2, "+": 3, "-": 3, "*": 4, "//": 4, "%": 4}


def show_expr(expr: Expr) -> str:
    """An expression as text."""
    match expr:
        case Lit(value):
            return str(value)
        case Name(name):
            return name
        case Op("min" | "max" as op, args):
            return f"{op}({', '.join(map(show_expr, args))})"
        case Op("neg", (arg,)):
            return f"-{_operand(arg, 5)}"
        case Op("select", (cond, then, other)):
            return f"({show_expr(then)} if {show_expr(cond)} else {show_expr(other)})"
        case Op(op, (left, right)):
            own = _STRENGTH[op]
            same = op in ("+", "and", "or") or (isinstance(right, Op) and right.op == op == "*")
            loose = own if same else own + 1
            return f"{_operand(left, own)} {op} {_operand(right, loose)}"
    raise TypeError(f"not a loop expression: {expr!r}")


def _operand(expr: Expr, strength: int) -> str:
    text = show_expr(expr)
    return f"({text})" if isinstance(expr, Op) and _STRENGTH.get(expr.op, 9) < strength else text


def _lines(body: tuple[Stmt, ...], depth: int) -> Iterator[str]:
    pad = "    " * depth
    for stmt in body:
        match stmt:
            case Visit(point):
                yield f"{pad}visit {show_expr(point)}"
            case For(var, low, high, step, inner):
                by = "" if step == Lit(1) else f" step {show_expr(step)}"
                yield f"{pad}for {var} in {show_expr(low)} .. {show_expr(high)}{by}:"
                yield from _lines(inner, depth + 1)
            case When(cond, inner, other):
                yield f"{pad}if {show_expr(cond)}:"
                yield from _lines(inner, depth + 1)
                if other:
                    yield f"{pad}else:"
                    yield from _lines(other, depth + 1)


def _size(node: Stmt | Expr) -> int:
    match node:
        case Visit(point):
            return 1 + _size(point)
        case For(_, low, high, step, body):
            return 1 + _size(low) + _size(high) + _size(step) + sum(map(_size, body))
        case When(cond, body, other):
            return 1 + _size(cond) + sum(map(_size, body)) + sum(map(_size, other))
        case Op(_, args):
            return 1 + sum(map(_size, args))
    return 1


def _visits(stmt: Stmt) -> int:
    match stmt:
        case Visit():
            return 1
        case For(body=body):
            return sum(map(_visits, body))
        case When(_, body, other):
            return sum(map(_visits, (*body, *other)))


def _run(body: tuple[Stmt, ...], env: dict[str, int]) -> Iterator[int]:
    for stmt in body:
        match stmt:
            case Visit(point):
                yield value(point, env)
            case For(var, low, high, step, inner):
                for v in range(value(low, env), value(high, env) + 1, value(step, env)):
                    yield from _run(inner, {**env, var: v})
            case When(cond, inner, other):
                yield from _run(inner if value(cond, env) else other, env)


ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    "neg": operator.neg,
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "==": operator.eq,
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
}
"""The operations that are Python's own, on whatever has them."""
_APPLY: Mapping[str, Callable[..., int]] = {"min": min, "max": max, **ARITHMETIC}


def value(expr: Expr, env: Mapping[str, int]) -> int:
    """The value of an expression; truth values are 0 and 1."""
    match expr:
        case Lit(v):
            return v
        case Name(name):
            return env[name]
        case Op("select", (cond, then, other)):
            return value(then if value(cond, env) else other, env)
        case Op("and", (left, right)):
            return int(bool(value(left, env) and value(right, env)))
        case Op("or", (left, right)):
            return int(bool(value(left, env) or value(right, env)))
        case Op(op, args):
            return int(_APPLY[op](*(value(a, env) for a in args)))
    raise TypeError(f"not a loop expression: {expr!r}")
