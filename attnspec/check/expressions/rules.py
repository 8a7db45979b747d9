"""Tree expressions to core expressions: names are resolved, patterns written out, constants folded.

An elaborator never stops at the first mistake: it notes it, and goes on with an unknown value that fits everywhere.
With ``shallow`` patterns are not written out where they are used; that is enough to check names and types of text that
is not instantiated, in time linear in the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from attnspec import reals
from attnspec.check.clauses import orders
from attnspec.check.expressions import calls, lists
from attnspec.check.expressions import inputs as reads
from attnspec.check.expressions import library as functions
from attnspec.check.expressions.collect import Report
from attnspec.check.expressions.scope import (
    HOLE,
    HOLE_PRED,
    UNKNOWN,
    Bound,
    Entry,
    InputRef,
    Let,
    Scope,
    Thunk,
    Unknown,
    Value,
    what,
)
from attnspec.errors import catalogue as mistakes
from attnspec.errors import clauses as clause
from attnspec.errors import values as wrong
from attnspec.errors.diagnostic import Diagnostic
from attnspec.errors.source import Span
from attnspec.language import tree as t
from attnspec.language import words
from attnspec.spec import exact as known
from attnspec.spec import expr as e
from attnspec.spec import make as s
from attnspec.spec.real import RealExpr

_MAX_CASES = 100_000


class Stop(Exception):
    """Raised when a limit is hit and going on makes no sense."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.title)
        self.diagnostic = diagnostic


class Elaborator:
    """The state of checking one attention or pattern: mistakes, budget, and the names bound by any, all and sum."""

    def __init__(self, report: Report, shallow: bool = False) -> None:
        self.report = report
        self.shallow = shallow
        self.spent = 0
        self.binders: list[tuple[str, e.Domain | None]] = []
        self.length = "n"
        """The variable that ``n`` means: beside axes the number that the lengths are solved for."""
        self.ordered = False
        """Whether the attention has an order of positions."""
        self.from_start = False
        """Whether query row i is position i."""
        self._depth = 0

    def wrong(self, diagnostic: Diagnostic) -> Value:
        """Note a mistake; what it leaves is unknown."""
        self.report.add(diagnostic)
        return UNKNOWN

    def spend(self, amount: int, span: Span) -> None:
        """Pay for parts of the result."""
        self.spent += amount
        if self.spent > wrong.MAX_NODES:
            raise Stop(wrong.grows_too_large(self.report.outermost(span)))

    def bound(self, node: e.IntExpr | e.Pred | RealExpr, span: Span) -> Bound:
        """A value ready for use by name."""
        size, depth = s.measure(node)
        self.spend(size // 8, span)
        if depth > wrong.MAX_DEPTH:
            raise Stop(wrong.too_deep_inside(self.report.outermost(span)))
        return Bound(node, size, depth)

    def integer(self, node: t.Expr, scope: Scope, help: str = "") -> e.IntExpr:
        """An expression that must be an integer."""
        value = self.expr(node, scope)
        if isinstance(value, e.IntExpr):
            return value
        return self._not("an integer", value, node, help)

    def number(self, node: t.Expr, scope: Scope) -> e.IntExpr | RealExpr:
        """An expression that must be an integer or a real number."""
        value = self.expr(node, scope)
        return value if isinstance(value, (e.IntExpr, RealExpr)) else self._not("a number", value, node)

    def constant(self, node: t.Expr, scope: Scope, name: str) -> int | None:
        """An integer that must be known at compile time; None if it is not (or not yet)."""
        value = self.integer(node, scope)
        try:
            return known.integer(value, {})
        except known.Unknown:
            names = s.names(value)
            if names and "?" not in names:
                self.wrong(wrong.not_known(node.span, name, names))
            return None

    def _not(self, wanted: str, value: Value, node: t.Expr, help: str = "") -> e.IntExpr:
        if isinstance(value, RealExpr):
            help = help or clause.NO_REALS
        elif isinstance(value, InputRef):
            help = f"index it: `{value.input.name}[...]`"
        if value is not UNKNOWN:
            self.wrong(wrong.wrong_type(node.span, wanted, what(value), help))
        return HOLE

    def pred(self, node: t.Expr, scope: Scope, help: str = "") -> e.Pred:
        """An expression that must be a predicate."""
        value = self.expr(node, scope)
        if isinstance(value, e.Pred):
            return value
        self._not("a predicate", value, node, help)
        return HOLE_PRED

    def expr(self, node: t.Expr, scope: Scope) -> Value:
        """The value of an expression of any type."""
        self.spend(1, node.span)
        if self._depth >= wrong.MAX_DEPTH:
            raise Stop(wrong.too_deep_inside(self.report.outermost(node.span)))
        self._depth += 1
        try:
            return _RULES[type(node)](self, node, scope)
        except known.TooLarge:
            return self.wrong(wrong.too_large(node.span))
        except reals.NotFinite:
            return self.wrong(clause.not_finite(node.span))
        finally:
            self._depth -= 1

    def lookup(self, name: t.Name, scope: Scope) -> Entry:
        """What a name stands for, before it is worked out."""
        found: Entry | None = scope.names.get(name.name) or scope.module.find(name.name)
        if found is not None:
            return found
        if name.name in words.BUILTINS or name.name in functions.LIBRARY:
            return self.wrong(mistakes.wrong_arguments(name.span, f"`{name.name}` needs arguments", "a function"))
        if name.name in ("inf", "infinity", "nan"):
            return self.wrong(clause.no_infinity(name.span, name.name))
        everything = {*scope.names, *scope.module.names(), *words.VARIABLES, *words.BUILTINS, *functions.LIBRARY}
        return self.wrong(mistakes.unknown_name(name.span, name.name, everything))

    def force(self, entry: Entry, scope: Scope, span: Span) -> Value:
        """The value of what a name stands for, at the positions of ``scope``."""
        match entry:
            case Bound(node, size):
                self.spend(size, span)
                return node
            case Thunk(body, own):
                return self.expr(body, own.at(scope))
            case Let(body, own, value, moves):
                if moves and not scope.unmoved:
                    with self.report.inside(span):
                        return self.expr(body, own.at(scope))
                if isinstance(value, (e.IntExpr, e.Pred, RealExpr)):
                    self.spend(s.measure(value)[0], span)
                return value
            case InputRef():
                return reads.bare(self, entry, span)
        return entry

    @contextmanager
    def binding(self, var: t.Name, domain: e.Domain | None, scope: Scope) -> Iterator[tuple[str, Scope]]:
        """Inside ``any``, ``all`` and ``sum``: the name in the core expression, and the scope of the body."""
        if var.name in words.RESERVED:
            self.wrong(mistakes.reserved(var.span, var.name))
        taken = {name for name, _ in self.binders} | {"m", *e.SLOTS}  # these have a meaning in the core
        name, count = var.name, 0
        while name in taken:
            count += 1
            name = f"{var.name}_{count}"
        self.binders.append((name, domain))
        try:
            yield name, scope.bind({var.name: Bound(e.Var(name), 1, 1)})
        finally:
            self.binders.pop()

    def cases(self, node: e.Node, span: Span) -> Iterator[dict[str, int]]:
        """All values of the bound names in an expression; nothing if it also reads what is not known yet."""
        needed = set(s.variables(node))
        chosen: list[tuple[str, e.Domain]] = []
        for name, domain in reversed(self.binders):
            if name in needed:
                if domain is None:
                    return
                chosen.insert(0, (name, domain))
                needed |= s.variables(domain)
        if needed - {name for name, _ in chosen}:
            return
        for count, env in enumerate(_environments(chosen, {})):
            if count >= _MAX_CASES:
                raise Stop(wrong.ranges_too_large(span, count, _MAX_CASES))
            if count % 8 == 0:
                self.spend(1, span)
            yield env

    def constant_cases(self, node: e.IntExpr, span: Span) -> Iterator[tuple[int, str]]:
        """All values that a constant expression takes, each with the condition under which it does, as text."""
        for env in self.cases(node, span):
            try:
                value = known.integer(node, env)
            except known.Unknown:
                continue  # a mistake inside, reported where it is
            reason = " and ".join(f"`{name}` is {v}" for name, v in env.items())
            yield value, f" when {reason}" if reason else ""


def _environments(binders: list[tuple[str, e.Domain]], env: dict[str, int]) -> Iterator[dict[str, int]]:
    if not binders:
        yield env
        return
    (name, domain), *rest = binders
    try:
        for value in known.values(domain, env):
            yield from _environments(rest, {**env, name: value})
    except known.Unknown:
        return


def _number(el: Elaborator, node: t.Number, scope: Scope) -> Value:
    digits = node.span.text.replace("_", "").lstrip("0")
    if len(digits) > 19:  # int() of very many digits is slow, and refused by Python
        raise known.TooLarge
    return e.Int(known.limited(int(digits or "0")))


def _name(el: Elaborator, node: t.Name, scope: Scope) -> Value:
    if node.name == "q":
        return el.force(scope.q, scope, node.span)
    if node.name == "k":
        return el.force(scope.k, scope, node.span)
    if node.name in words.VARIABLES:
        return e.Var(el.length if node.name == "n" else node.name)
    entry = el.lookup(node, scope)
    return calls.apply_bare(el, node, entry, scope)


def _negative(el: Elaborator, node: t.Negative, scope: Scope) -> Value:
    return reals.negative(el.number(node.inner, scope))


def _bars(el: Elaborator, node: t.Bars, scope: Scope) -> Value:
    inner = el.number(node.inner, scope)
    return s.absolute(inner) if isinstance(inner, e.IntExpr) else reals.apply("abs", inner)


def _arithmetic(el: Elaborator, node: t.Arithmetic, scope: Scope) -> Value:
    first = el.number(node.first, scope)
    if node.rest[0][0] in ("+", "-"):
        rest = [(op, el.number(x, scope)) for op, x in node.rest]
        terms = [first, *(x if op == "+" else reals.negative(x) for op, x in rest)]
        whole = [x for x in terms if isinstance(x, e.IntExpr)]
        return s.add(whole) if len(whole) == len(terms) else reals.total(terms)
    result = first
    for op, operand in node.rest:
        x = el.number(operand, scope)
        if isinstance(result, e.IntExpr) and isinstance(x, e.IntExpr) and op != "/":
            found = _whole(el, op, result, x, operand.span)
            if found is None:
                return UNKNOWN
            result = found
        elif op in ("*", "/"):
            result = reals.product(result, x) if op == "*" else reals.quotient(result, x)
        else:
            place = operand.span if isinstance(x, RealExpr) else node.first.span
            help = "a quotient of real numbers is written `/`" if op == "//" else ""
            return el.wrong(wrong.wrong_type(place, "an integer", "a real number", help))
    return result


def _whole(el: Elaborator, op: str, a: e.IntExpr, x: e.IntExpr, place: Span) -> e.IntExpr | None:
    """A product, quotient or remainder of integers; None after a mistake."""
    if op == "*":
        return s.multiply(a, x)
    if names := s.varies(x):
        el.wrong(wrong.divisor_not_constant(place, sorted(names)))
        return None
    bad = next((case for case in el.constant_cases(x, place) if case[0] <= 0), None)
    if bad is not None:
        el.wrong(wrong.divisor_not_positive(place, *bad))
        return None
    return s.divide(a, x) if op == "//" else s.modulo(a, x)


def _power(el: Elaborator, node: t.Power, scope: Scope) -> Value:
    base, exponent = el.integer(node.base, scope), el.integer(node.exponent, scope)
    for part, where in ((base, node.base), (exponent, node.exponent)):
        if names := s.varies(part):
            return el.wrong(wrong.power_not_constant(where.span, sorted(names)))
    bad = next((case for case in el.constant_cases(exponent, node.exponent.span) if case[0] < 0), None)
    if bad is not None:
        return el.wrong(wrong.negative_exponent(node.exponent.span, *bad))
    result = s.power(base, exponent)
    for _ in el.constant_cases(result, node.span):
        pass  # each value is computed once, so that one that is too large shows now
    return result


def _compare(el: Elaborator, node: t.Compare, scope: Scope) -> Value:
    places = [node.first, *(x for _, x in node.rest)]
    values = [el.expr(x, scope) for x in places]
    if UNKNOWN in values:
        return HOLE_PRED
    for place, value in zip(places, values, strict=True):
        if isinstance(value, (RealExpr, InputRef)):
            el.integer(place, scope)  # says what is wrong with it
            return HOLE_PRED
    parts: list[e.Pred] = []
    for i, (op, _) in enumerate(node.rest):
        a, b = values[i], values[i + 1]
        if i:  # the middle of a chain is written twice
            el.spend(s.measure(a)[0] if isinstance(a, e.Node) else 0, places[i].span)
        if isinstance(a, e.IntExpr) and isinstance(b, e.IntExpr):
            parts.append(s.compare(op, a, b))
        elif isinstance(a, e.Pred) and isinstance(b, e.Pred):
            if op not in ("==", "!="):
                return el.wrong(wrong.order_of_predicates(places[i].span, op))
            same = s.equivalence(a, b)
            parts.append(same if op == "==" else s.negation(same))
        elif what(a) == what(b):
            return el.wrong(wrong.wrong_type(places[i].span, "an integer", what(a)))
        else:
            return el.wrong(wrong.mixed_comparison(places[i].span, what(a), places[i + 1].span, what(b)))
    return s.conjunction(parts)


def _not(el: Elaborator, node: t.Not, scope: Scope) -> Value:
    return s.negation(el.pred(node.inner, scope))


def _and(el: Elaborator, node: t.And, scope: Scope) -> Value:
    return s.conjunction([el.pred(x, scope) for x in node.args])


def _or(el: Elaborator, node: t.Or, scope: Scope) -> Value:
    return s.disjunction([el.pred(x, scope) for x in node.args])


def _if(el: Elaborator, node: t.If, scope: Scope) -> Value:
    cond = el.pred(node.cond, scope)
    then, other = el.expr(node.then, scope), el.expr(node.other, scope)
    if UNKNOWN in (then, other):
        return UNKNOWN
    if isinstance(then, (e.IntExpr, RealExpr)) and isinstance(other, (e.IntExpr, RealExpr)):
        if isinstance(then, e.IntExpr) and isinstance(other, e.IntExpr):
            return s.choose(cond, then, other)
        return reals.choose(cond, then, other)
    if what(then) != what(other):
        return el.wrong(
            wrong.wrong_type(node.other.span, f"{what(then)}, as after `then`", what(other), help="bracket the `if`")
        )
    if isinstance(cond, e.Bool):
        return then if cond.value else other
    if isinstance(then, e.Pred) and isinstance(other, e.Pred):
        el.spend(s.measure(cond)[0], node.cond.span)  # the condition is written twice
        return s.choose_pred(cond, then, other)
    return el.wrong(wrong.wrong_type(node.then.span, "an integer or a predicate", what(then)))


def _at(el: Elaborator, node: t.At, scope: Scope) -> Value:
    q, k = el.integer(node.q, scope), el.integer(node.k, scope)
    moved = scope.moved(el.bound(q, node.q.span), el.bound(k, node.k.span))
    found = el.expr(node.pattern, moved)
    if isinstance(found, (e.Pred, Unknown)):
        return found
    help = "`at` applies to what stands directly before it: bracket the predicate"
    return el.wrong(wrong.wrong_type(node.pattern.span, "a predicate", what(found), help))


_RULES: dict[type[t.Expr], Callable[[Elaborator, Any, Scope], Value]] = {
    t.Number: _number,
    t.Decimal: lambda el, node, scope: reals.literal(node.span.text),
    t.Truth: lambda el, node, scope: e.Bool(node.value),
    t.Name: _name,
    t.ListOf: lists.literal,
    t.TupleOf: lists.literal,
    t.Bracket: lambda el, node, scope: el.expr(node.inner, scope),
    t.Bars: _bars,
    t.Negative: _negative,
    t.Arithmetic: _arithmetic,
    t.Power: _power,
    t.Compare: _compare,
    t.Member: lists.member,
    t.Not: _not,
    t.And: _and,
    t.Or: _or,
    t.If: _if,
    t.Bind: lists.bind,
    t.Call: calls.call,
    t.Item: lists.item,
    t.Field: orders.field,
    t.At: _at,
}
