"""The state of checking, and what every rule asks of it: types, names, budgets and constants.

An elaborator never stops at the first mistake: it notes it, and goes on with an unknown value that fits everywhere.
With ``shallow`` patterns are not written out where they are used; that is enough to check names and types of text that
is not instantiated, in time linear in the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

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
    Value,
    what,
)
from attnspec.errors.clauses import NO_REALS, no_infinity, not_finite
from attnspec.errors.diagnostic import MAX_ERRORS, Diagnostic
from attnspec.errors.foreign import WORDS
from attnspec.errors.names import attention_as_pattern, reserved, unknown_name, wrong_arguments
from attnspec.errors.source import Span
from attnspec.errors.values import (
    MAX_DEPTH,
    MAX_NODES,
    grows_too_large,
    not_known,
    ranges_too_large,
    too_deep_inside,
    too_large,
    wrong_type,
)
from attnspec.language import tree as t
from attnspec.language import words
from attnspec.language.load import shipped
from attnspec.spec import contents, exact, make
from attnspec.spec import expr as e
from attnspec.spec.real import RealExpr

_MAX_CASES = 100_000


class Stop(Exception):
    """Raised when a limit is hit and going on makes no sense."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.title)
        self.diagnostic = diagnostic


class Elaborator:
    """The state of checking one attention or pattern: mistakes, budget, and the names bound by any, all and sum.

    ``rules`` has one for each kind of expression: :func:`attnspec.check.expressions.rules.elaborator` fills them in.
    """

    def __init__(self, report: Report, rules: Rules, shallow: bool = False) -> None:
        self.report = report
        self.rules = rules
        self.shallow = shallow
        self.spent = 0
        self.binders: list[tuple[str, e.Domain | None]] = []
        self.length = "n"
        """The variable that ``n`` means: beside axes the number that the lengths are solved for."""
        self.ordered = False
        """Whether the attention has an order of positions."""
        self.from_start = False
        """Whether query row i is position i."""
        self.has_axes = False
        self.orders_reals = False
        """Whether reals may be compared: in the conditions of a score."""
        self.maps_vectors = False
        """Whether functions of whole vectors may be called: in a ``linear`` line."""
        self.includes = 0
        """How many attentions that include each other are being written out."""
        self._depth = 0

    def wrong(self, diagnostic: Diagnostic) -> Value:
        """Note a mistake; what it leaves is unknown."""
        self.report.add(diagnostic)
        return UNKNOWN

    def spend(self, amount: int, span: Span) -> None:
        """Pay for parts of the result."""
        self.spent += amount
        if self.spent > MAX_NODES:
            raise Stop(grows_too_large(self.report.outermost(span)))

    def bound(self, node: e.IntExpr | e.Pred | RealExpr, span: Span) -> Bound:
        """A value ready for use by name."""
        size, depth = contents.measure(node)
        self.spend(size // 8, span)
        if depth > MAX_DEPTH:
            raise Stop(too_deep_inside(self.report.outermost(span)))
        return Bound(node, size, depth)

    def integer(self, node: t.Expr, scope: Scope) -> e.IntExpr:
        """An expression that must be an integer."""
        value = self.expr(node, scope)
        return value if isinstance(value, e.IntExpr) else self._mismatch("an integer", value, node)

    def number(self, node: t.Expr, scope: Scope) -> e.IntExpr | RealExpr:
        """An expression that must be an integer or a real number."""
        value = self.expr(node, scope)
        return value if isinstance(value, (e.IntExpr, RealExpr)) else self._mismatch("a number", value, node)

    def constant(self, node: t.Expr, scope: Scope, name: str) -> int | None:
        """An integer that must be known at compile time; None if it is not (or not yet)."""
        value = self.integer(node, scope)
        try:
            return exact.integer(value, {})
        except exact.Unknown:
            names = contents.names(value)
            if names and "?" not in names:
                self.wrong(not_known(node.span, name, names))
            return None

    def _mismatch(self, wanted: str, value: Value, node: t.Expr) -> e.IntExpr:
        help = NO_REALS if isinstance(value, RealExpr) else ""
        if isinstance(value, e.Pred):
            help = "predicates are joined by `and`, `or` and `not`; a comment begins with `#`"
        if isinstance(value, InputRef):
            help = f"index it: `{value.input.name}[...]`"
        if value is not UNKNOWN:
            self.wrong(wrong_type(node.span, wanted, what(value), help))
        return HOLE

    def pred(self, node: t.Expr, scope: Scope) -> e.Pred:
        """An expression that must be a predicate."""
        before = len(self.report.mistakes)
        value = self.expr(node, scope)
        if isinstance(value, e.Pred):
            return value
        unknown = isinstance(value, e.Node) and "?" in contents.free(value)
        if not (unknown and (len(self.report.mistakes) > before or not self.shallow)):  # else it is said already
            self._mismatch("a predicate", value, node)
        return HOLE_PRED

    def expr(self, node: t.Expr, scope: Scope) -> Value:
        """The value of an expression of any type."""
        self.spend(1, node.span)
        if self._depth >= MAX_DEPTH:
            raise Stop(too_deep_inside(self.report.outermost(node.span)))
        self._depth += 1
        try:
            return self.rules[type(node)](self, node, scope)
        except exact.TooLarge:
            return self.wrong(too_large(node.span))
        except make.NotFinite:
            return self.wrong(not_finite(node.span))
        finally:
            self._depth -= 1

    def lookup(self, name: t.Name, scope: Scope) -> Entry:
        """What a name stands for, before it is worked out."""
        entry: Entry | None = scope.names.get(name.name) or scope.module.find(name.name)
        if entry is not None:
            return entry
        if name.name in words.BUILTINS | words.LIBRARY:
            return self.wrong(wrong_arguments(name.span, f"`{name.name}` needs arguments", "a function"))
        if name.name in ("inf", "infinity", "nan"):
            return self.wrong(no_infinity(name.span, name.name))
        if name.name in scope.module.attentions or (name.name not in WORDS and name.name in shipped()):
            return self.wrong(attention_as_pattern(name.span, name.name))
        if len(self.report.mistakes) > 10 * MAX_ERRORS:  # not told, and looking for what is near takes time
            return self.wrong(unknown_name(name.span, name.name, (), ()))
        everything = {*scope.module.names(), *words.VARIABLES, *words.BUILTINS, *words.LIBRARY}
        return self.wrong(unknown_name(name.span, name.name, scope.names, everything))

    def force(self, entry: Entry, scope: Scope, span: Span) -> Value:
        """The value of what a name stands for, at the positions of ``scope``."""
        match entry:
            case Bound(node, size):
                self.spend(size, span)
                return node
            case Thunk(body, home):
                return self.expr(body, home.at(scope))
            case Let(body, home, value, moves):
                if moves and not scope.unmoved:
                    with self.report.inside(span):
                        return self.expr(body, home.at(scope))
                if isinstance(value, e.Node):
                    self.spend(contents.measure(value)[0], span)
                return value
        return entry

    @contextmanager
    def binding(self, var: t.Name, domain: e.Domain | None, scope: Scope) -> Iterator[tuple[str, Scope]]:
        """Inside ``any``, ``all`` and ``sum``: the name in the core expression, and the scope of the body."""
        if var.name in words.RESERVED:
            self.wrong(reserved(var.span, var.name))
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
        needed = set(contents.free(node))
        chosen: list[tuple[str, e.Domain]] = []
        for name, domain in reversed(self.binders):
            if name in needed:
                if domain is None:
                    return
                chosen.insert(0, (name, domain))
                needed |= contents.free(domain)
        if needed - {name for name, _ in chosen}:
            return
        for count, env in enumerate(_environments(chosen, {})):
            if count >= _MAX_CASES:
                raise Stop(ranges_too_large(span, count, _MAX_CASES))
            if count % 8 == 0:
                self.spend(1, span)
            yield env

    def constant_cases(self, node: e.IntExpr, span: Span) -> Iterator[tuple[int, str]]:
        """All values that a constant expression takes, each with the condition under which it does, as text."""
        for env in self.cases(node, span):
            try:
                value = exact.integer(node, env)
            except exact.Unknown:
                continue  # a mistake inside, reported where it is
            reason = " and ".join(f"`{name}` is {v}" for name, v in env.items())
            yield value, f" when {reason}" if reason else ""


def _environments(binders: list[tuple[str, e.Domain]], env: dict[str, int]) -> Iterator[dict[str, int]]:
    if not binders:
        yield env
        return
    (name, domain), *rest = binders
    try:
        for value in exact.values(domain, env):
            yield from _environments(rest, {**env, name: value})
    except exact.Unknown:
        return


Rules = Mapping[type[t.Expr], Callable[[Elaborator, Any, Scope], Value]]
"""The rule of each kind of expression."""
