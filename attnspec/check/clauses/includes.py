"""``include name(arguments)``: the clauses of another attention, as if they were written in its place.

They have names of their own: the parameters and ``let`` names of the included attention and of the one that includes it
do not meet. Inputs and axes do: they are those of the call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from attnspec.check.expressions.calls import bind_arguments
from attnspec.check.expressions.elaborator import Elaborator, Stop
from attnspec.check.expressions.patterns import shipped_module
from attnspec.check.expressions.scope import (
    UNKNOWN,
    Bound,
    Entry,
    InputRef,
    ListValue,
    Module,
    RealList,
    Scope,
    Thunk,
    Unknown,
    Value,
    what,
)
from attnspec.errors.names import too_many_includes, unknown_attention
from attnspec.errors.source import Source, Span
from attnspec.errors.values import not_known, wrong_type
from attnspec.language import tree as t
from attnspec.language.load import shipped
from attnspec.spec import contents, exact
from attnspec.spec import expr as e
from attnspec.spec.real import RealExpr

_MAX_LEVELS = 32
_PRICE = 16
"""Of opening one, in parts of an expression."""


@dataclass(frozen=True)
class Included:
    """The clauses of an included attention, their scope, and the names of its parameters."""

    clauses: tuple[t.Clause, ...]
    scope: Scope
    seen: dict[str, Span]
    source: Source


@contextmanager
def opened(el: Elaborator, node: t.Include, scope: Scope) -> Iterator[Included | None]:
    """What a line includes, while its clauses are written out; None after a mistake."""
    found = _bound(el, node, scope)
    if found is None:
        yield None
        return
    if el.includes == _MAX_LEVELS:
        raise Stop(too_many_includes(el.report.outermost(node.span), _MAX_LEVELS))
    el.spend(_PRICE + len(found.clauses), node.span)
    el.includes += 1
    try:
        with el.report.inside(node.span, "included here"):
            el.report.entered(found.source)
            yield found
    finally:
        el.includes -= 1


def every(clauses: tuple[t.Clause, ...], module: Module) -> Iterator[t.Clause]:
    """All clauses of a body and of what it includes, those of each attention once; not those inside others."""
    work, seen = [(clauses, module, 0)], set()
    while work:
        clauses, module, level = work.pop()
        for clause in clauses:
            yield clause
            if isinstance(clause, t.Include) and level < _MAX_LEVELS:
                found = _find(clause.attention.name, module)
                if found is not None and id(found[0]) not in seen:
                    seen.add(id(found[0]))
                    work.append((found[0].clauses, found[1], level + 1))


def _find(name: str, module: Module) -> tuple[t.Attention, Module] | None:
    """The attention of a name, in the file or else shipped, and what is defined where it stands."""
    if name in module.circular or name in module.lost:
        return None
    if name in module.attentions:
        return module.attentions[name], module
    if name in shipped():
        home = shipped_module(name)
        return home.attentions[name], home
    return None


def _bound(el: Elaborator, node: t.Include, scope: Scope) -> Included | None:
    name, module = node.attention.name, scope.module
    found = _find(name, module)
    if found is None:
        if name not in module.circular | module.lost:
            known = {*module.attentions, *shipped()}
            is_pattern = module.find(name) is not None
            el.wrong(unknown_attention(node.attention.span, name, known, is_pattern))
        return None
    tree, home = found
    bound = bind_arguments(el, name, tree.parameters, node.args, node.span, scope, Scope(home))
    if bound is None:
        return None
    defaults = {p.name.name: p.default for p in tree.parameters}
    values: dict[str, Entry] = {}
    for number, parameter in enumerate(tree.parameters):
        key = parameter.name.name
        place = next(
            (a for i, a in enumerate(node.args) if (a.keyword.name == key if a.keyword else i == number)), None
        )
        if place is None:
            values[key] = bound[key]
            continue
        default = defaults[key]
        like = None if default is None or el.shallow else el.expr(default, Scope(home).bind(values))
        values[key] = _constant(el, place.value, bound[key], scope, like, key)
    clauses = () if el.shallow else tree.clauses
    seen = {p.name.name: p.name.span for p in tree.parameters}
    return Included(clauses, Scope(home).bind(values), seen, tree.span.source)


def _constant(el: Elaborator, tree: t.Expr, entry: Entry, scope: Scope, like: Value | None, name: str) -> Entry:
    """A value for a parameter: of the type of its default, and known. Where reals are wanted, inputs may be read."""
    value: object = el.force(entry, scope, tree.span) if isinstance(entry, (Bound, Thunk)) else entry
    if isinstance(value, Unknown):
        return UNKNOWN
    if isinstance(value, InputRef) and value.input.kind == "float" and (el.shallow or _is_real(like)):
        return value
    if isinstance(value, RealExpr) and (el.shallow or isinstance(like, RealExpr)):
        return entry
    if not isinstance(value, (e.IntExpr, e.Pred, RealExpr, ListValue, RealList)):
        el.wrong(wrong_type(tree.span, "a number, a boolean or a list", what(value)))  # type: ignore[arg-type]
        return UNKNOWN
    node = value.indices if isinstance(value, (ListValue, RealList)) else (value,)
    names = sorted(set().union(*(contents.names(part) for part in node)))
    if "?" in names:
        return entry
    if names or (isinstance(value, e.Pred) and not isinstance(value, e.Bool)):
        el.wrong(not_known(tree.span, f"the parameter `{name}`", names))
        return UNKNOWN
    whole = isinstance(like, RealExpr) and isinstance(value, e.IntExpr)
    whole = whole or (isinstance(like, RealList) and isinstance(value, ListValue) and value.flat)
    if like is not None and like is not UNKNOWN and what(like) != what(value) and not whole:
        el.wrong(wrong_type(tree.span, f"{what(like)}, as the default of `{name}`", what(value)))
        return UNKNOWN
    if isinstance(value, e.IntExpr):
        return Bound(e.Int(exact.integer(value, {})), 1, 1)
    return entry


def _is_real(value: Value | None) -> bool:
    return isinstance(value, (RealExpr, RealList))
