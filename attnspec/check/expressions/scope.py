"""What names stand for while a spec is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import cast

from attnspec.errors.source import Span
from attnspec.language import tree as t
from attnspec.spec import expr as e
from attnspec.spec.parts import Input
from attnspec.spec.parts import Value as Constant
from attnspec.spec.real import Cast, Parameter, Real, RealExpr, Reals, shape_of


@dataclass(frozen=True, slots=True)
class Unknown:
    """A thing that cannot be known here: an unbound parameter, or what is left of a mistake already reported."""


@dataclass(frozen=True, slots=True)
class Bound:
    """An integer, a predicate or a real, with its size and depth: paid for at each use, but not measured again."""

    node: e.IntExpr | e.Pred | RealExpr
    size: int
    depth: int


@dataclass(frozen=True, slots=True)
class ListValue:
    """A list; with ``indices``, the inner list that they select in a nested one."""

    items: tuple[e.Nested, ...]
    indices: tuple[e.IntExpr, ...] = ()

    @property
    def choices(self) -> list[tuple[e.Nested, ...]]:
        """The lists from which the indices select one."""
        level = [self.items]
        for _ in self.indices:
            level = [x for choice in level for x in choice if isinstance(x, tuple)]
        return level

    @property
    def longest(self) -> int:
        """The length of the longest of them."""
        return max(map(len, self.choices), default=0)

    @property
    def flat(self) -> bool:
        """Whether they hold integers, not lists."""
        return not any(isinstance(x, tuple) for choice in self.choices for x in choice)


@dataclass(frozen=True, slots=True)
class RealList:
    """A list of reals, all of one length on each level; with ``indices``, the inner list that they select."""

    items: tuple[Reals, ...]
    name: str = ""
    indices: tuple[e.IntExpr, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths on the levels that are left."""
        return shape_of(self.items)[len(self.indices) :]


@dataclass(frozen=True, slots=True)
class PatternRef:
    """A pattern by its definition, its parameters still open."""

    tree: t.Pattern
    module: Module


@dataclass(frozen=True, slots=True)
class Thunk:
    """A predicate given for a pattern parameter: worked out where it is used, at the positions of that place."""

    body: t.Expr
    scope: Scope


@dataclass(frozen=True, slots=True)
class Let:
    """``let name = ...``: its value at the positions q and k, and its text for use at other positions."""

    body: t.Expr
    scope: Scope
    value: Value
    moves: bool
    """Whether its value must be worked out again at other positions."""


@dataclass(frozen=True, slots=True)
class Function:
    """``let name(i) = ...``."""

    tree: t.Let
    scope: Scope
    result: str
    """What it returns: ``pred`` or something else."""


@dataclass(frozen=True, slots=True)
class InputRef:
    """An input, not indexed yet; ``by_row`` says that a dimension of n_q is indexed by position and read by row."""

    input: Input
    span: Span
    """Where it is declared."""
    by_row: bool


Value = e.IntExpr | e.Pred | RealExpr | ListValue | RealList | PatternRef | Function | InputRef | Unknown
"""What an expression can be."""

Entry = Value | Bound | Thunk | Let
"""What a name can stand for."""

UNKNOWN = Unknown()
HOLE = e.Var("?")
"""An unknown integer: counts as constant."""
HOLE_PRED = e.Cmp("!=", HOLE, e.Int(0))
HOLE_REAL = Cast(HOLE)

Q = Bound(e.Var("q"), 1, 1)
K = Bound(e.Var("k"), 1, 1)


@dataclass(frozen=True)
class Module:
    """The patterns that a file defines; what it does not define is looked up in ``outer`` (the prelude)."""

    patterns: Mapping[str, t.Pattern]
    outer: Module | None = None
    broken: frozenset[str] = frozenset()
    """Patterns that use themselves; they are never written out."""
    lost: frozenset[str] = frozenset()
    """Names whose definitions did not parse; their uses are not reported."""
    attentions: Mapping[str, t.Attention] = field(default_factory=dict)
    """The attentions of the file, which ``include`` finds before shipped ones."""
    circular: frozenset[str] = frozenset()
    """Attentions that include themselves; they are never written out."""

    def find(self, name: str) -> PatternRef | Unknown | None:
        """The pattern of a name."""
        if name in self.broken or name in self.lost:
            return UNKNOWN
        if name in self.patterns:
            return PatternRef(self.patterns[name], self)
        return self.outer.find(name) if self.outer else None

    def names(self) -> frozenset[str]:
        """All patterns in reach."""
        return frozenset(self.patterns) | (self.outer.names() if self.outer else frozenset())


@dataclass(frozen=True)
class Scope:
    """The names in reach of an expression, and the positions that q and k stand for."""

    module: Module
    names: Mapping[str, Entry] = field(default_factory=dict)
    q: Bound = Q
    k: Bound = K

    def bind(self, names: Mapping[str, Entry]) -> Scope:
        """The scope with more names."""
        return replace(self, names={**self.names, **names})

    def at(self, place: Scope) -> Scope:
        """The scope with the positions of another."""
        return replace(self, q=place.q, k=place.k)

    def moved(self, q: Bound, k: Bound) -> Scope:
        """The scope at other positions."""
        return replace(self, q=q, k=k)

    @property
    def unmoved(self) -> bool:
        """Whether q and k are the positions of the query and the key themselves."""
        return self.q is Q and self.k is K


def as_entry(value: Constant, name: str = "") -> Bound | ListValue | RealList:
    """A constant, as a name stands for it; ``name`` is that of a parameter."""
    if isinstance(value, tuple):
        return RealList(reals(value), name) if holds_reals(value) else ListValue(integers(value))
    if isinstance(value, float):
        return Bound(Parameter(name, value) if name else Real(value), 1, 1)
    return Bound(e.Bool(value) if isinstance(value, bool) else e.Int(value), 1, 1)


def holds_reals(value: Reals | e.Nested) -> bool:
    """Whether a constant is, or its lists hold, a real that is no integer."""
    return any(map(holds_reals, value)) if isinstance(value, tuple) else isinstance(value, float)


def reals(items: tuple[Reals, ...]) -> tuple[Reals, ...]:
    """A list with its integers as reals.

    >>> reals((1, 0.5))
    (1.0, 0.5)
    """
    return tuple(reals(item) if isinstance(item, tuple) else float(item) for item in items)


def integers(items: tuple[Reals, ...]) -> tuple[e.Nested, ...]:
    """A list without reals."""
    return cast(tuple[e.Nested, ...], items)


def what(value: Value) -> str:
    """A value's type, for messages.

    >>> what(e.Int(3)), what(ListValue(()))
    ('an integer', 'a list')
    """
    match value:
        case e.IntExpr():
            return "an integer"
        case e.Pred():
            return "a predicate"
        case RealExpr():
            return "a real number"
        case ListValue():
            return "a list"
        case RealList():
            return "a list of real numbers"
        case InputRef():
            return "an input"
        case PatternRef():
            return "a pattern"
        case Function():
            return "a function"
    return "unknown"
