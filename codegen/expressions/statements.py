"""Reals, integers and predicates as statements: one for each operation, and equal ones written once.

What the targets share. How an operation is written is said by a :class:`Syntax`; a statement names the value of an
expression of names and literals. An integer comes with where it has a value: reads outside a list or input have none.

>>> from attnspec.codegen.cpp.lanes import cxx_syntax
>>> from attnspec.spec.expr import Mul, Int, Var
>>> body = Statements(cxx_syntax({}))
>>> body.real(r.Product(r.Score(), r.Apply("tanh", r.Score()))), body.integer(Mul(Int(2), Var("q")))
('t1', ('t2', None))
>>> body.lines
['const auto t0 = tanh(s);', 'const auto t1 = s * t0;', 'const auto t2 = pos(2) * q;']
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from attnspec.codegen.expressions.arguments import has_reciprocal
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec import real as r
from attnspec.spec.evaluate import domain_values
from attnspec.spec.rewrite import replace

UNROLL = 64
"""How many values of a bound variable are written out where a loop would do."""


Write = Callable[..., str]
"""From names and literals to an expression of them."""
Place = Callable[["Statements", str, Sequence[str]], str]
"""From an input's name and an index for each dimension to an expression."""


@dataclass(frozen=True, kw_only=True)
class Syntax:
    """How a target writes operations."""

    true: str
    false: str
    zero: str
    """The real 0."""
    assign: Write
    """A statement that gives a name (first) to a value."""
    float_literal: Callable[[float], str]
    int_literal: Callable[[int], str]
    operand: Write
    """An integer as an operand or argument."""
    variable: Write

    # Reals
    cast: Write
    """An integer as a real."""
    call: Write
    """A function, by its name, of one real: one of ``real.FUNCTIONS`` or the sign."""
    guarded: Write
    """The incoming gradient ``g`` times a real; 0 where the gradient is 0."""
    choose: Write
    """One of two reals, by a truth."""

    # Integers
    pick: Write
    """One of two integers, by a truth."""
    quotient: Callable[[str, int | str], str]
    """Division that rounds downwards."""
    remainder: Callable[[str, int | str], str]
    power: Write
    least: str
    """The name of a function of two integers."""
    most: str
    magnitude: Write
    item: Callable[[Statements, Sequence[int], str, str], str]
    """The name or literal of the entry of a list at a place (last), given where that is inside; anything elsewhere."""

    # Truth
    compare: Write
    """Of an operator and two integers, or two reals."""
    both: Write
    either: Write
    same: Write
    negated: Write
    in_range: Write
    """Whether an integer is at least 0 and less than a size."""

    # Inputs: nothing is touched outside
    inside: Place
    """The name or literal of the truth of indices being inside."""
    read_real: Place
    """An entry of a float input; 0 outside."""
    read_integer: Place
    flag: Place
    """The truth of an entry of a boolean input; false outside."""
    among: Place
    """Whether an integer that is not negative (first) stands in the last dimension, at indices of those before."""

    loop: Callable[[Statements, e.Any | e.All], str]
    """The name of the truth of a predicate over more values than are written out."""


@dataclass
class Statements:
    """The statements of one function, as they are written."""

    syntax: Syntax
    lines: list[str] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)
    """The name of the value of each expression that has been written."""

    def named(self, text: str) -> str:
        """The name of the value of an expression of names."""
        if text not in self.known:
            self.known[text] = f"t{len(self.known)}"
            self.lines.append(self.syntax.assign(self.known[text], text))
        return self.known[text]

    # Reals

    def real(self, node: r.RealExpr) -> str:
        """The value of a real."""
        write = self.syntax
        match node:
            case r.Real(value):
                return write.float_literal(value)
            case r.Score():
                return "s"
            case r.Cast(e.Int(value)):
                return write.float_literal(float(value))
            case r.Cast(arg):
                whole, ok = self.integer(arg)
                return self.where_known(self.named(write.cast(whole)), ok)
            case r.RealRead(name, indices):
                places, ok = self.indices(indices)
                return self.where_known(self.named(write.read_real(self, name, places)), ok)
            case r.Total(terms):
                return self.named(_signed([self._term(term) for term in terms]))
            case r.Product(r.Real(-1.0), right):
                return self.named(negative(self.real(right)))
            case r.Product(left, right):
                return self.named(f"{self.real(left)} * {self.real(right)}")
            case r.Quotient(left, r.Real(value)) if has_reciprocal(value):
                return self.named(f"{self.real(left)} * {write.float_literal(1.0 / value)}")
            case r.Quotient(left, right):
                return self.named(f"{self.real(left)} / {self.real(right)}")
            case r.Apply(function, arg):
                return self.named(write.call(function, self.real(arg)))
            case r.Choose(cond, then, other):
                return self.named(write.choose(self.predicate(cond), self.real(then), self.real(other)))
        raise TypeError(f"not a real expression: {type(node).__name__}")

    def where_known(self, real: str, ok: str | None) -> str:
        """A real; 0 where an index of what it reads has no value."""
        return real if ok is None else self.named(self.syntax.choose(ok, real, self.syntax.zero))

    def _term(self, node: r.RealExpr) -> tuple[str, str]:
        match node:
            case r.Product(r.Real(-1.0), right):
                return "-", self.real(right)
            case r.Real(value) if value < 0:
                return "-", self.syntax.float_literal(-value)
        return "+", self.real(node)

    # Integers

    def indices(self, indices: tuple[e.IntExpr, ...]) -> tuple[list[str], str | None]:
        """The values of indices, and where all of them have one (None: everywhere)."""
        parts = [self.integer(index) for index in indices]
        return [self.syntax.operand(value) for value, _ in parts], self._all(ok for _, ok in parts)

    def _all(self, oks: Iterator[str | None]) -> str | None:
        known = list(dict.fromkeys(ok for ok in oks if ok is not None))
        return self.fold(self.syntax.both, known) if known else None

    def fold(self, join: Callable[[str, str], str], parts: Sequence[str]) -> str:
        """One truth from several."""
        result = parts[0]
        for part in parts[1:]:
            result = self.named(join(result, part))
        return result

    def integer(self, node: e.IntExpr) -> tuple[str, str | None]:
        """The value of an integer, and where it has one: None means everywhere."""
        write = self.syntax
        match node:
            case e.Int(value):
                return write.int_literal(value), None
            case e.Var(name):
                text = write.variable(name)
                return (self.named(text) if text.startswith("(") else text), None
            case e.Add(terms):
                signed = [self._integer_term(term) for term in terms]
                texts = [(sign, text) for sign, text, _ in signed]
                return self.named(_signed(texts)), self._all(ok for *_, ok in signed)
            case e.Mul(e.Int(-1), right):
                positive, ok = self.integer(right)
                return self.named(negative(positive)), ok
            case e.Mul(left, right):
                return self._apply(lambda a, b: f"{a} * {b}", left, right)
            case e.FloorDiv(left, e.Int(by)) | e.Mod(left, e.Int(by)) if by < 1:  # in a branch that is not taken
                return self.integer(type(node)(left, e.Int(1)))
            case e.FloorDiv(left, e.Int(by)) if by & (by - 1) == 0:
                return self._apply(lambda a: f"{a} >> {by.bit_length() - 1}", left)
            case e.Mod(left, e.Int(by)) if by & (by - 1) == 0:
                return self._apply(lambda a: f"{a} & {write.int_literal(by - 1)}", left)
            case e.FloorDiv(left, e.Int(by)):
                return self._apply(lambda a: write.quotient(a, by), left)
            case e.Mod(left, e.Int(by)):
                return self._apply(lambda a: write.remainder(a, by), left)
            case e.FloorDiv(left, right):
                return self._apply(write.quotient, left, right)
            case e.Mod(left, right):
                return self._apply(write.remainder, left, right)
            case e.Pow(base, exponent):
                return self._apply(write.power, base, exponent)
            case e.Min(args):
                return self._apply(lambda *parts: nest_calls(write.least, parts), *args)
            case e.Max(args):
                return self._apply(lambda *parts: nest_calls(write.most, parts), *args)
            case e.Abs(arg):
                return self._apply(write.magnitude, arg)
            case e.If(cond, then, other):
                return self._if(cond, then, other)
            case e.Sum(var, domain, body):
                copies = [replace(body, {e.Var(var): e.Int(v)}) for v in domain_values(domain, {})]
                return self.integer(e.Add(tuple(copies)) if copies else e.Int(0))
            case e.Index(items, indices):
                return self._item(items, indices)
            case e.Read(name):
                places, ok = self.indices(node.indices)
                inside = write.inside(self, name, places)
                entry = self.named(write.read_integer(self, name, places))
                return entry, inside if ok is None else self.named(write.both(ok, inside))
        raise TypeError(f"not an integer expression: {type(node).__name__}")

    def _integer_term(self, node: e.IntExpr) -> tuple[str, str, str | None]:
        match node:
            case e.Mul(e.Int(-1), right):
                return "-", *self.integer(right)
            case e.Int(value) if value < 0:
                return "-", self.syntax.int_literal(-value), None
        return "+", *self.integer(node)

    def _apply(self, write: Callable[..., str], *args: e.IntExpr) -> tuple[str, str | None]:
        values, ok = self.indices(args)
        return self.named(write(*values)), ok

    def _if(self, cond: e.Pred, then: e.IntExpr, other: e.IntExpr) -> tuple[str, str | None]:
        write = self.syntax
        where = self.predicate(cond)
        (a, b), _ = self.indices((then, other))
        oks = [self.integer(arg)[1] for arg in (then, other)]
        value = self.named(write.pick(where, a, b))
        if oks == [None, None]:
            return value, None
        taken = where if oks[0] is None else self.named(write.both(where, oks[0]))
        left_out = self.named(write.negated(where))
        if oks[1] is not None:
            left_out = self.named(write.both(left_out, oks[1]))
        return value, self.named(write.either(taken, left_out))

    def _item(self, items: tuple[e.Nested, ...], indices: tuple[e.IntExpr, ...]) -> tuple[str, str | None]:
        """An entry of a list, from a table in which rows that are too short are filled up."""
        write = self.syntax
        shape = _shape(items, len(indices))
        entries = list(_entries(items, shape))
        places, ok = self.indices(indices)
        inside = [self.named(write.in_range(at, size)) for at, size in zip(places, shape, strict=True)]
        at = places[0]
        for place, size in zip(places[1:], shape[1:], strict=True):
            at = self.named(f"{at} * {size} + {place}")
        here = self.fold(write.both, [*([] if ok is None else [ok]), *inside])
        value = write.item(self, [entry or 0 for entry in entries], here, at)
        if None in entries:
            full = write.item(self, [int(entry is not None) for entry in entries], here, at)
            here = self.fold(write.both, [here, self.named(write.compare("!=", full, "0"))])
        return value, here

    # Predicates

    def predicate(self, pred: e.Pred) -> str:
        """Where a predicate holds."""
        write = self.syntax
        match pred:
            case e.Bool(value):
                return write.true if value else write.false
            case e.Cmp(op, left, right):
                (a, b), ok = self.indices((left, right))
                return self._where_known(self.named(write.compare(op, a, b)), ok)
            case r.Order(op, x, y):
                return self.named(write.compare(op, self.real(x), self.real(y)))
            case e.And(args):
                return self.fold(write.both, [self.predicate(arg) for arg in args]) if args else write.true
            case e.Or(args):
                return self.fold(write.either, [self.predicate(arg) for arg in args]) if args else write.false
            case e.Not(arg):
                return self.named(write.negated(self.predicate(arg)))
            case e.Iff(left, right):
                return self.named(write.same(self.predicate(left), self.predicate(right)))
            case e.Any(var, domain, body) | e.All(var, domain, body) if written_out(var, domain, body):
                kind = e.Or if isinstance(pred, e.Any) else e.And
                parts = [replace(body, {e.Var(var): e.Int(v)}) for v in domain_values(domain, {})]
                return self.predicate(kind(tuple(parts)))
            case e.Flag(name, indices):
                places, ok = self.indices(indices)
                return self._where_known(self.named(write.flag(self, name, places)), ok)
            case e.Among(item, name, indices):
                places, ok = self.indices((item, *indices))
                return self._where_known(self.named(write.among(self, name, places)), ok)
            case e.Any() | e.All():
                return write.loop(self, pred)
        raise TypeError(f"not a predicate: {type(pred).__name__}")

    def _where_known(self, truth: str, ok: str | None) -> str:
        return truth if ok is None else self.named(self.syntax.both(ok, truth))


def written_out(var: str, domain: e.Domain, body: e.Pred) -> bool:
    """Whether there is no loop over the values of a bound variable: they are few, or choose the values of another."""
    inner = (node.domain for node in contents.walk(body) if isinstance(node, (e.Any, e.All, e.Sum)))
    return len(domain_values(domain, {})) <= UNROLL or any(var in contents.free(other) for other in inner)


def negative(text: str) -> str:
    """``-x``, which is never ``--x``."""
    return f"-({text})" if text.startswith("-") else f"-{text}"


def nest_calls(function: str, args: Sequence[str]) -> str:
    """``f(a, f(b, c))``."""
    return args[0] if len(args) == 1 else f"{function}({args[0]}, {nest_calls(function, args[1:])})"


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
