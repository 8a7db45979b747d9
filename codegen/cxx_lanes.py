"""Reals, integers and predicates as C++ statements that compute for W pairs at once.

Every operation is one statement, and equal statements are written once. Their types are left to C++: what does not
depend on the positions of the lanes is a single value, and what it is read from is read once. ``cpp/input.hpp`` and
``cpp/real.hpp`` have the functions.

>>> from attnspec.expr import Mul, Int, Var
>>> lanes = Lanes({})
>>> lanes.real(r.Product(r.Score(), r.Apply("tanh", r.Score()))), lanes.integer(Mul(Int(2), Var("q")))
('t1', ('t2', None))
>>> lanes.lines
['const auto t0 = tanh(s);', 'const auto t1 = s * t0;', 'const auto t2 = pos(2) * q;']
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from attnspec import expr as e
from attnspec import real as r
from attnspec.codegen.cxx import NO_NAMES, UNROLL, Printer, literal, negative, nest_calls
from attnspec.evaluate import domain_values
from attnspec.rewrite import replace


def mask(pred: e.Pred, names: Mapping[str, int] = NO_NAMES) -> list[str]:
    """The statements of a function that returns where a predicate holds, as a vint.

    The positions ``q``, ``k`` (and ``q_slot``, ``k_slot``, if it has them) are of type pos or vpos, the sizes
    are ``s``.
    """
    lanes = Lanes(names, "s")
    result = lanes.predicate(pred)
    return [*lanes.lines, f"return truth_of({result});"]


@dataclass
class Lanes:
    """The statements of one function, as they are written."""

    names: Mapping[str, int]
    sizes: str = "z"
    lines: list[str] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)
    """The name of the value of each expression that has been written."""
    lists: Iterator[int] = field(default_factory=itertools.count)

    def named(self, text: str) -> str:
        """The name of the value of an expression of names."""
        if text not in self.known:
            self.known[text] = f"t{len(self.known)}"
            self.lines.append(f"const auto {self.known[text]} = {text};")
        return self.known[text]

    def input(self, name: str) -> str:
        """An input, by its place."""
        return f"{self.sizes}.inputs[{self.names[name]}]"

    # Reals

    def real(self, node: r.RealExpr) -> str:
        """The value of a real: float or vfloat."""
        match node:
            case r.Real(value):
                return real_literal(value)
            case r.Score():
                return "s"
            case r.Cast(e.Int(value)):
                return real_literal(float(value))
            case r.Cast(arg):
                whole, ok = self.integer(arg)
                return self._known(f"real({whole})", ok)
            case r.RealRead(name, indices):
                places, ok = self.indices(indices)
                return self._known(f"read<float>({', '.join([self.input(name), *places])})", ok)
            case r.Total(terms):
                return self.named(_signed([self._term(term) for term in terms]))
            case r.Product(r.Real(-1.0), right):
                return self.named(negative(self.real(right)))
            case r.Product(left, right):
                return self.named(f"{self.real(left)} * {self.real(right)}")
            case r.Quotient(left, r.Real(value)) if _has_reciprocal(value):
                return self.named(f"{self.real(left)} * {real_literal(1.0 / value)}")
            case r.Quotient(left, right):
                return self.named(f"{self.real(left)} / {self.real(right)}")
            case r.Apply(function, arg):
                return self.named(f"{function}({self.real(arg)})")
            case r.Choose(cond, then, other):
                return self.named(f"choose({self.predicate(cond)}, {self.real(then)}, {self.real(other)})")
        raise TypeError(f"not a real expression: {type(node).__name__}")

    def _known(self, text: str, ok: str | None) -> str:
        return self.named(text) if ok is None else self.named(f"choose({ok}, {self.named(text)}, 0.f)")

    def _term(self, node: r.RealExpr) -> tuple[str, str]:
        match node:
            case r.Product(r.Real(-1.0), right):
                return "-", self.real(right)
            case r.Real(value) if value < 0:
                return "-", real_literal(-value)
        return "+", self.real(node)

    # Integers

    def indices(self, indices: tuple[e.IntExpr, ...]) -> tuple[list[str], str | None]:
        """The values of indices, and where all of them have one (None: everywhere)."""
        parts = [self.integer(index) for index in indices]
        return [f"pos({value})" if value.strip("()-").isdigit() else value for value, _ in parts], self._all(
            ok for _, ok in parts
        )

    def _all(self, oks: Iterator[str | None]) -> str | None:
        known = list(dict.fromkeys(ok for ok in oks if ok is not None))
        return self._fold("both", known) if known else None

    def _fold(self, function: str, parts: list[str]) -> str:
        result = parts[0]
        for part in parts[1:]:
            result = self.named(f"{function}({result}, {part})")
        return result

    def integer(self, node: e.IntExpr) -> tuple[str, str | None]:
        """The value of an integer, pos or vpos, and where it has one: None means everywhere."""
        match node:
            case e.Int(value):
                return literal(value, "pos"), None
            case e.Var(name):
                text = Printer(self.names, self.sizes).variable(name)
                return (self.named(text) if text.startswith("(") else text), None
            case e.Add(terms):
                signed = [self._integer_term(term) for term in terms]
                return self.named(_signed([(sign, text) for sign, text, _ in signed])), self._all(
                    ok for *_, ok in signed
                )
            case e.Mul(e.Int(-1), right):
                positive, ok = self.integer(right)
                return self.named(negative(positive)), ok
            case e.Mul(left, right):
                return self._apply(lambda a, b: f"{a} * {b}", left, right)
            case e.FloorDiv(left, e.Int(by)) if by & (by - 1) == 0:
                return self._apply(lambda a: f"{a} >> {by.bit_length() - 1}", left)
            case e.Mod(left, e.Int(by)) if by & (by - 1) == 0:
                return self._apply(lambda a: f"{a} & {literal(by - 1, 'pos')}", left)
            case e.FloorDiv(left, e.Int(by)):
                return self._apply(lambda a: f"quotient<{by}>({a})", left)
            case e.Mod(left, e.Int(by)):
                return self._apply(lambda a: f"remainder<{by}>({a})", left)
            case e.FloorDiv(left, right):
                return self._apply(lambda a, b: f"quotient({a}, {b})", left, right)
            case e.Mod(left, right):
                return self._apply(lambda a, b: f"remainder({a}, {b})", left, right)
            case e.Pow(base, exponent):
                return self._apply(lambda a, b: f"power<pos>({a}, {b})", base, exponent)
            case e.Min(args):
                return self._apply(lambda *parts: nest_calls("lesser", list(parts)), *args)
            case e.Max(args):
                return self._apply(lambda *parts: nest_calls("greater", list(parts)), *args)
            case e.Abs(arg):
                return self._apply(lambda a: f"magnitude({a})", arg)
            case e.If(cond, then, other):
                return self._if(cond, then, other)
            case e.Sum(var, domain, body):
                copies = [replace(body, {e.Var(var): e.Int(v)}) for v in domain_values(domain, {})]
                return self.integer(e.Add(tuple(copies)) if copies else e.Int(0))  # type: ignore[arg-type]
            case e.Index(items, indices):
                return self._item(items, indices)
            case e.Read(name):
                places, ok = self.indices(node.indices)
                entry = ", ".join([self.input(name), *places])
                inside = self.named(f"inside({entry})")
                return self.named(f"read<pos>({entry})"), inside if ok is None else self.named(f"both({ok}, {inside})")
        raise TypeError(f"not an integer expression: {type(node).__name__}")

    def _integer_term(self, node: e.IntExpr) -> tuple[str, str, str | None]:
        match node:
            case e.Mul(e.Int(-1), right):
                return "-", *self.integer(right)
            case e.Int(value) if value < 0:
                return "-", literal(-value, "pos"), None
        return "+", *self.integer(node)

    def _apply(self, write: Callable[..., str], *args: e.IntExpr) -> tuple[str, str | None]:
        values, ok = self.indices(args)
        return self.named(write(*values)), ok

    def _if(self, cond: e.Pred, then: e.IntExpr, other: e.IntExpr) -> tuple[str, str | None]:
        where = self.predicate(cond)
        (a, b), _ = self.indices((then, other))
        oks = [self.integer(arg)[1] for arg in (then, other)]
        value = self.named(f"pick({where}, {a}, {b})")
        if oks == [None, None]:
            return value, None
        taken = where if oks[0] is None else self.named(f"both({where}, {oks[0]})")
        left_out = self.named(f"negated({where})")
        if oks[1] is not None:
            left_out = self.named(f"both({left_out}, {oks[1]})")
        return value, self.named(f"either({taken}, {left_out})")

    def _item(self, items: tuple[e.Nested, ...], indices: tuple[e.IntExpr, ...]) -> tuple[str, str | None]:
        """An entry of a list, from a table in which rows that are too short are filled up."""
        shape = _shape(items, len(indices))
        entries = list(_entries(items, shape))
        places, ok = self.indices(indices)
        inside = [self.named(f"in_range({at}, {size})") for at, size in zip(places, shape, strict=True)]
        at = places[0]
        for place, size in zip(places[1:], shape[1:], strict=True):
            at = self.named(f"{at} * {size} + {place}")
        here = self._fold("both", [*([] if ok is None else [ok]), *inside])
        table = self._table([entry or 0 for entry in entries])
        value = self.named(f"item({table}, {here}, {at})")
        if None in entries:
            filled = self._table([int(entry is not None) for entry in entries])
            full = self.named(f"item({filled}, {here}, {at})")
            here = self._fold("both", [here, self.named(f"truth({full} != 0)")])
        return value, here

    def _table(self, entries: list[int]) -> str:
        text = f"[] = {{{', '.join(literal(entry, 'pos') for entry in entries)}}}"
        if text not in self.known:
            self.known[text] = f"list{next(self.lists)}"
            self.lines.append(f"static constexpr pos {self.known[text]}{text};")
        return self.known[text]

    # Predicates

    def predicate(self, pred: e.Pred) -> str:
        """Where a predicate holds: bool or vint."""
        match pred:
            case e.Bool(value):
                return "true" if value else "false"
            case e.Cmp(op, left, right):
                (a, b), ok = self.indices((left, right))
                test = self.named(f"truth({a} {op} {b})")
                return test if ok is None else self.named(f"both({ok}, {test})")
            case e.And(args):
                return self._fold("both", [self.predicate(arg) for arg in args]) if args else "true"
            case e.Or(args):
                return self._fold("either", [self.predicate(arg) for arg in args]) if args else "false"
            case e.Not(arg):
                return self.named(f"negated({self.predicate(arg)})")
            case e.Iff(left, right):
                return self.named(f"same({self.predicate(left)}, {self.predicate(right)})")
            case e.Any(var, domain, body) | e.All(var, domain, body) if len(domain_values(domain, {})) <= UNROLL:
                kind = e.Or if isinstance(pred, e.Any) else e.And
                parts = [replace(body, {e.Var(var): e.Int(v)}) for v in domain_values(domain, {})]
                return self.predicate(kind(tuple(parts)))  # type: ignore[arg-type]
            case e.Flag(name, indices):
                places, ok = self.indices(indices)
                return self._known_true(f"flag({', '.join([self.input(name), *places])})", ok)
            case e.Among(item, name, indices):
                values, ok = self.indices((item, *indices))
                return self._known_true(f"among({', '.join([self.input(name), *values])})", ok)
            case e.Any() | e.All():
                return self.named(self._lanewise(pred))
        raise TypeError(f"not a predicate: {type(pred).__name__}")

    def _known_true(self, text: str, ok: str | None) -> str:
        return self.named(text) if ok is None else self.named(f"both({ok}, {self.named(text)})")

    def _lanewise(self, pred: e.Pred) -> str:
        """A loop over values that are too many to write out, for one pair after another."""
        variables = sorted(e.free(pred) & (e.POSITIONS | e.SLOTS))
        arguments = ", ".join(f"pos {name}" for name in variables)
        test = Printer(self.names, self.sizes).predicate(pred)
        return f"lanewise({', '.join([f'[&]({arguments}) {{ return {test}; }}', *variables])})"


def real_literal(value: float) -> str:
    """A literal of type float."""
    if math.isnan(value):
        return "(INF - INF)"
    if abs(value) > _LARGEST:
        return "INF" if value > 0 else "(-INF)"
    return f"{float(value)!r}f" if math.copysign(1.0, value) > 0 else f"({float(value)!r}f)"


_LARGEST: float = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]


def _has_reciprocal(value: float) -> bool:
    """Whether a division may be a multiplication: the reciprocal is a normal float."""
    return 1e-37 < abs(value) < 1e37


def _signed(parts: list[tuple[str, str]]) -> str:
    """Terms with their signs as a sum."""
    (sign, first), *rest = parts
    return (first if sign == "+" else negative(first)) + "".join(f" {sign} {text}" for sign, text in rest)


def _shape(items: e.Nested, depth: int) -> tuple[int, ...]:
    """The longest length on each level of a nested list."""
    if depth == 0:
        return ()
    level: list[e.Nested] = [items]
    shape: list[int] = []
    for _ in range(depth):
        rows = [row for row in level if isinstance(row, tuple)]
        shape.append(max((len(row) for row in rows), default=0))
        level = [item for row in rows for item in row]
    return tuple(max(size, 1) for size in shape)


def _entries(items: e.Nested | None, shape: tuple[int, ...]) -> Iterator[int | None]:
    """The integers of a nested list, row by row; None where a row is too short."""
    if not shape:
        yield items if isinstance(items, int) else None
        return
    row = items if isinstance(items, tuple) else ()
    for at in range(shape[0]):
        yield from _entries(row[at] if at < len(row) else None, shape[1:])
