"""The core expressions of a checked pattern: integers and predicates over positions.

What is left of the language once names are resolved, patterns are inlined and lists are bound. ``str(e)`` is text in
the language itself, so every core expression can be read back.

>>> str(Cmp("<", Add((Var("q"), Mul(Int(-1), Var("k")))), Int(4)))
'q - k < 4'
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any as Any_
from typing import Self, Union

from attnspec.spec import writing

Nested = Union[int, tuple["Nested", ...]]
"""An integer or a nested tuple of them: a list parameter."""

POSITIONS = frozenset({"q", "k"})
SIZES = frozenset({"n", "n_q", "b", "m"})
SLOTS = frozenset({"q_slot", "k_slot"})
"""Places in a computed order (``order by``), where a pattern has one."""
PAIRS = frozenset({"pair", "pairs"})
"""In rotations: the number of a pair of dimensions that turn together, and how many there are."""
CONSTANTS = frozenset({"h", "heads", "kv_heads", "batch"})
"""Variables that are constant within one head of one call: they may be factors, divisors and indices."""
_WRITTEN = {"m": "n", "q_slot": "q.slot", "k_slot": "k.slot"}
"""Variables that the language writes otherwise."""


class Node(writing.Written):
    """Base of all core expressions: frozen, comparable, hashable."""

    __slots__ = ()

    def children(self) -> Iterator[Node]:
        """The direct sub-expressions, in the order written."""
        for field in fields(self):  # type: ignore[arg-type]
            if field.name == "items":
                continue  # plain integers, possibly very many
            value = getattr(self, field.name)
            if isinstance(value, Node):
                yield value
            elif isinstance(value, tuple):
                yield from (item for item in value if isinstance(item, Node))

    def map(self, change: Callable[[Node], Node]) -> Self:
        """The same expression over other sub-expressions."""
        values = []
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Node):
                value = change(value)
            elif isinstance(value, tuple) and field.name != "items":
                value = tuple(change(item) if isinstance(item, Node) else item for item in value)
            values.append(value)
        return type(self)(*values)


class IntExpr(Node):
    """An integer-valued expression."""

    __slots__ = ()


class Pred(Node):
    """A truth-valued expression."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Int(IntExpr):
    """An integer constant."""

    value: int

    def _write(self) -> writing.Text:
        return writing.number(self.value)

    def _opposite(self) -> Int | None:
        return Int(-self.value) if self.value < 0 else None


@dataclass(frozen=True, slots=True)
class Var(IntExpr):
    """A variable: one of POSITIONS, SIZES, CONSTANTS, PAIRS, or a name bound by Any, All or Sum."""

    name: str

    def _write(self) -> writing.Text:
        return _WRITTEN.get(self.name, self.name), writing.ATOM


@dataclass(frozen=True, slots=True)
class Add(IntExpr):
    """The sum of all terms; ``a - b`` is ``Add((a, Mul(Int(-1), b)))``."""

    terms: tuple[IntExpr, ...]

    def _write(self) -> writing.Text:
        return writing.total(self.terms)


@dataclass(frozen=True, slots=True)
class Mul(IntExpr):
    """A product of two integers."""

    left: IntExpr
    right: IntExpr

    def _write(self) -> writing.Text:
        if self.left == Int(-1):
            return writing.negative(self.right)
        return writing.product(self.left, "*", self.right)

    def _opposite(self) -> IntExpr | None:
        return self.right if self.left == Int(-1) else None


@dataclass(frozen=True, slots=True)
class FloorDiv(IntExpr):
    """Division rounded towards minus infinity; the divisor is constant and positive."""

    left: IntExpr
    right: IntExpr

    def _write(self) -> writing.Text:
        return writing.product(self.left, "//", self.right)


@dataclass(frozen=True, slots=True)
class Mod(IntExpr):
    """The remainder of FloorDiv: never negative."""

    left: IntExpr
    right: IntExpr

    def _write(self) -> writing.Text:
        return writing.product(self.left, "%", self.right)


@dataclass(frozen=True, slots=True)
class Pow(IntExpr):
    """A power; base and exponent are constant, the exponent not negative."""

    base: IntExpr
    exponent: IntExpr

    def _write(self) -> writing.Text:
        return f"{self.base._at(writing.ATOM)} ** {self.exponent._at(writing.NEGATIVE)}", writing.POWER


@dataclass(frozen=True, slots=True)
class Min(IntExpr):
    """The smallest of one or more integers."""

    args: tuple[IntExpr, ...]

    def _write(self) -> writing.Text:
        return writing.call("min", self.args)


@dataclass(frozen=True, slots=True)
class Max(IntExpr):
    """The largest of one or more integers."""

    args: tuple[IntExpr, ...]

    def _write(self) -> writing.Text:
        return writing.call("max", self.args)


@dataclass(frozen=True, slots=True)
class Abs(IntExpr):
    """An absolute value."""

    arg: IntExpr

    def _write(self) -> writing.Text:
        return writing.absolute(self.arg)


@dataclass(frozen=True, slots=True)
class If(IntExpr):
    """``if cond then then else other``."""

    cond: Pred
    then: IntExpr
    other: IntExpr

    def _write(self) -> writing.Text:
        return writing.choice(self.cond, self.then, self.other)


@dataclass(frozen=True, slots=True)
class Index(IntExpr):
    """``items[i]`` or ``items[i][j]``...: an entry of a (nested) list; one expression per level, from outside in.

    The comparison around a read outside the list is false.
    """

    items: tuple[Nested, ...]
    indices: tuple[IntExpr, ...]

    def _write(self) -> writing.Text:
        return writing.entry(self.items, self.indices)


@dataclass(frozen=True, slots=True)
class Read(IntExpr):
    """``doc[b, q]``: an entry of an integer input, with one index for each dimension it is declared with.

    The comparison around a read outside the tensor is false. ``doc.first`` and ``doc.last`` name what is
    derived from a sorted input: the first and last position of the run of equal values that a position is in.
    """

    name: str
    indices: tuple[IntExpr, ...]

    def _write(self) -> writing.Text:
        return writing.read(self.name, self.indices)


@dataclass(frozen=True, slots=True)
class Range(Node):
    """``low..high``: the integers from low (included) to high (excluded); both constant."""

    low: IntExpr
    high: IntExpr

    def _write(self) -> writing.Text:
        return f"{self.low._at(writing.SUM)}..{self.high._at(writing.SUM)}", writing.ATOM


@dataclass(frozen=True, slots=True)
class Values(Node):
    """The integers of a list, or of the inner list that ``indices`` select in a nested one."""

    items: tuple[Nested, ...]
    indices: tuple[IntExpr, ...] = ()

    def _write(self) -> writing.Text:
        return writing.entry(self.items, self.indices)


Domain = Union[Range, Values]


@dataclass(frozen=True, slots=True)
class Sum(IntExpr):
    """``sum var in domain: body``."""

    var: str
    domain: Domain
    body: IntExpr

    def _write(self) -> writing.Text:
        return writing.over("sum", self.var, self.domain, self.body)


@dataclass(frozen=True, slots=True)
class Bool(Pred):
    """``true`` or ``false``."""

    value: bool

    def _write(self) -> writing.Text:
        return str(self.value).lower(), writing.ATOM


COMPARE: Mapping[str, Callable[[Any_, Any_], Any_]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
"""What each comparison does, for integers, arrays and tensors alike."""


@dataclass(frozen=True, slots=True)
class Cmp(Pred):
    """A comparison; ``op`` is one of ``== != < <= > >=``. Chains are an And of these."""

    op: str
    left: IntExpr
    right: IntExpr

    def _write(self) -> writing.Text:
        return f"{self.left._at(writing.SUM)} {self.op} {self.right._at(writing.SUM)}", writing.COMPARE


@dataclass(frozen=True, slots=True)
class And(Pred):
    """True where all arguments are; true when there are none."""

    args: tuple[Pred, ...]

    def _write(self) -> writing.Text:
        return " and ".join(
            arg._at(writing.NOT) for arg in self.args
        ) or "true", writing.AND if self.args else writing.ATOM


@dataclass(frozen=True, slots=True)
class Or(Pred):
    """True where some argument is; false when there are none."""

    args: tuple[Pred, ...]

    def _write(self) -> writing.Text:
        return " or ".join(
            arg._at(writing.AND) for arg in self.args
        ) or "false", writing.OR if self.args else writing.ATOM


@dataclass(frozen=True, slots=True)
class Not(Pred):
    """True where the argument is false."""

    arg: Pred

    def _write(self) -> writing.Text:
        return f"not {self.arg._at(writing.NOT)}", writing.NOT


@dataclass(frozen=True, slots=True)
class Iff(Pred):
    """``==`` between predicates; ``!=`` is its Not."""

    left: Pred
    right: Pred

    def _write(self) -> writing.Text:
        return f"({self.left}) == ({self.right})", writing.COMPARE


@dataclass(frozen=True, slots=True)
class Any(Pred):
    """``any var in domain: body``."""

    var: str
    domain: Domain
    body: Pred

    def _write(self) -> writing.Text:
        return writing.over("any", self.var, self.domain, self.body)


@dataclass(frozen=True, slots=True)
class All(Pred):
    """``all var in domain: body``."""

    var: str
    domain: Domain
    body: Pred

    def _write(self) -> writing.Text:
        return writing.over("all", self.var, self.domain, self.body)


@dataclass(frozen=True, slots=True)
class Flag(Pred):
    """``keep[b, h, q // 64, k // 64]``: an entry of a boolean input; false outside the tensor."""

    name: str
    indices: tuple[IntExpr, ...]

    def _write(self) -> writing.Text:
        return writing.read(self.name, self.indices)


@dataclass(frozen=True, slots=True)
class Among(Pred):
    """``k // 64 in top[b, h, q // 64]``: whether an integer stands in the last dimension of an integer input.

    ``indices`` select all dimensions but the last; negative entries match nothing, and outside the tensor it is false.
    """

    item: IntExpr
    name: str
    indices: tuple[IntExpr, ...]

    def _write(self) -> writing.Text:
        return f"{self.item._at(writing.SUM)} in {writing.read(self.name, self.indices)[0]}", writing.COMPARE
