"""Expressions as they were written: brackets and places are kept; nothing is resolved.

Chains (`a + b - c`, `p and q and r`, `0 <= x < y`) are flat, so that long ones are not deep.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.errors.source import Span


@dataclass(frozen=True, slots=True)
class Node:
    """A piece of the source and its place."""

    span: Span


@dataclass(frozen=True, slots=True)
class Expr(Node):
    """An expression: an integer, a predicate, a list or a pattern; the checker finds out which."""


@dataclass(frozen=True, slots=True)
class Number(Expr):
    """An integer literal; its digits are ``span.text``."""


@dataclass(frozen=True, slots=True)
class Truth(Expr):
    """``true`` or ``false``."""

    value: bool


@dataclass(frozen=True, slots=True)
class Name(Expr):
    """A name, whatever it stands for."""

    name: str


@dataclass(frozen=True, slots=True)
class Decimal(Expr):
    """A real literal, ``0.5``; its digits are ``span.text``."""


@dataclass(frozen=True, slots=True)
class TupleOf(Expr):
    """``(a, b)``: the same as a list, where several names are bound at once."""

    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class ListOf(Expr):
    """``[a, b, c]``."""

    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Bracket(Expr):
    """``(inner)``."""

    inner: Expr


@dataclass(frozen=True, slots=True)
class Bars(Expr):
    """``|inner|``."""

    inner: Expr


@dataclass(frozen=True, slots=True)
class Negative(Expr):
    """``-inner``."""

    inner: Expr


@dataclass(frozen=True, slots=True)
class Arithmetic(Expr):
    """``first op x op y ...`` with operators of one strength: ``+ -`` or ``* / // %``; read from the left."""

    first: Expr
    rest: tuple[tuple[str, Expr], ...]


@dataclass(frozen=True, slots=True)
class Power(Expr):
    """``base ** exponent``."""

    base: Expr
    exponent: Expr


@dataclass(frozen=True, slots=True)
class Compare(Expr):
    """``first op x op y ...`` with comparison operators."""

    first: Expr
    rest: tuple[tuple[str, Expr], ...]


@dataclass(frozen=True, slots=True)
class Range(Node):
    """``low..high``, where a set of integers is wanted."""

    low: Expr
    high: Expr


Domain = Range | Expr
"""What stands after ``in``."""


@dataclass(frozen=True, slots=True)
class Member(Expr):
    """``item in domain`` or ``item not in domain``."""

    item: Expr
    domain: Domain
    negated: bool


@dataclass(frozen=True, slots=True)
class Not(Expr):
    """``not inner``."""

    inner: Expr


@dataclass(frozen=True, slots=True)
class And(Expr):
    """``a and b and ...``."""

    args: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Or(Expr):
    """``a or b or ...``."""

    args: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class If(Expr):
    """``if cond then then else other``."""

    cond: Expr
    then: Expr
    other: Expr


@dataclass(frozen=True, slots=True)
class Bind(Expr):
    """``any``, ``all`` or ``sum`` (``word``) ``var in domain: body``."""

    word: str
    var: Name
    domain: Domain
    body: Expr


@dataclass(frozen=True, slots=True)
class Argument(Node):
    """An argument of a call, with its keyword if it has one."""

    keyword: Name | None
    value: Expr


@dataclass(frozen=True, slots=True)
class Call(Expr):
    """``callee(args)``."""

    callee: Name
    args: tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Item(Expr):
    """``base[index]``, or ``base[i, j, ...]`` for an input: then ``more`` holds the indices after the first."""

    base: Expr
    index: Expr
    more: tuple[Expr, ...] = ()


@dataclass(frozen=True, slots=True)
class Field(Expr):
    """``base.name``."""

    base: Expr
    name: Name


@dataclass(frozen=True, slots=True)
class At(Expr):
    """``pattern at (q, k)``."""

    pattern: Expr
    q: Expr
    k: Expr
