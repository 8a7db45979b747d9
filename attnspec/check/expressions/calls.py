"""Calls: patterns, ``let`` functions and the built-in functions, and how arguments meet parameters."""

from __future__ import annotations

from attnspec.check.expressions import inputs, library
from attnspec.check.expressions.elaborator import Elaborator
from attnspec.check.expressions.scope import (
    HOLE_PRED,
    UNKNOWN,
    Bound,
    Entry,
    Function,
    InputRef,
    Let,
    PatternRef,
    Scope,
    Thunk,
    Unknown,
    Value,
    what,
)
from attnspec.errors.catalogue import did_you_mean
from attnspec.errors.names import not_callable, wrong_arguments
from attnspec.errors.source import Span
from attnspec.language import tree as t
from attnspec.language import words
from attnspec.spec import expr as e


def call(el: Elaborator, node: t.Call, scope: Scope) -> Value:
    """``name(arguments)``."""
    name = node.callee.name
    if name in words.VARIABLES:
        return el.wrong(not_callable(node.callee.span, name, "an integer"))
    free = name not in scope.names and scope.module.find(name) is None
    if name in words.BUILTINS or (free and name in words.LIBRARY):
        return library.call(el, node, scope)
    entry = el.lookup(node.callee, scope)
    if isinstance(entry, PatternRef):
        return _pattern(el, entry, node.args, node.span, scope)
    if isinstance(entry, Function):
        return _function(el, entry, node, scope)
    for arg in node.args:  # their own mistakes are worth telling all the same
        argument(el, arg.value, scope)
    if isinstance(entry, Unknown):
        return entry
    if isinstance(entry, Thunk):
        return el.wrong(not_callable(node.callee.span, name, "a predicate"))
    value = apply_bare(el, node.callee, entry, scope)
    return value if isinstance(value, Unknown) else el.wrong(not_callable(node.callee.span, name, what(value)))


def apply_bare(el: Elaborator, node: t.Name, entry: Entry, scope: Scope) -> Value:
    """A name without brackets: a pattern is called without arguments, an input read where it needs no indices."""
    if isinstance(entry, PatternRef):
        return _pattern(el, entry, (), node.span, scope)
    if isinstance(entry, InputRef):
        return inputs.bare(el, entry, node.span)
    return el.force(entry, scope, node.span)


def argument(el: Elaborator, node: t.Expr, scope: Scope) -> Entry:
    """What a parameter is bound to: integers and lists by value, predicates and patterns by their text."""
    inner = node
    while isinstance(inner, t.Bracket):
        inner = inner.inner
    if isinstance(inner, t.Name) and inner.name not in words.VARIABLES:
        entry = el.lookup(inner, scope)
        if isinstance(entry, (PatternRef, Thunk, Function, InputRef)) or (isinstance(entry, Bound) and scope.unmoved):
            return entry
    if el.shallow or not _is_predicate(inner, scope):
        value = el.expr(node, scope)
        return el.bound(value, node.span) if isinstance(value, e.Node) else value
    return Thunk(node, scope)


def _is_predicate(node: t.Expr, scope: Scope) -> bool:
    """Whether an expression is a predicate, without working it out."""
    match node:
        case t.Compare() | t.Member() | t.Not() | t.And() | t.Or() | t.At():
            return True
        case t.Bind(word=word):
            return word != "sum"
        case t.Bracket(inner=inner):
            return _is_predicate(inner, scope)
        case t.If(then=then, other=other):
            return _is_predicate(then, scope) or _is_predicate(other, scope)
        case t.Item(base=t.Name(name=name)):
            entry = scope.names.get(name)
            base = entry.value if isinstance(entry, Let) else entry
            return isinstance(base, InputRef) and base.input.kind == "bool"
        case t.Name(name=name) | t.Call(callee=t.Name(name=name)):
            match scope.names.get(name) or scope.module.find(name):
                case PatternRef() | Thunk() | Bound(node=e.Pred()) | Let(value=e.Pred()) | Function(result="pred"):
                    return True
    return False


def bind_arguments(
    el: Elaborator, name: str, parameters: tuple[t.Parameter, ...], args: tuple[t.Argument, ...], use: Span,
    scope: Scope, home: Scope,
) -> dict[str, Entry] | None:  # fmt: skip
    """The value of each parameter, or None after a mistake. Defaults are worked out in the callee's scope, ``home``."""
    given: dict[str, t.Argument] = {}
    names = [p.name.name for p in parameters]
    fine = True
    for i, arg in enumerate(args):
        if arg.keyword is None and i >= len(names):
            takes = f"`{name}` takes {len(names) or 'no'} argument{'' if len(names) == 1 else 's'}"
            el.wrong(wrong_arguments(arg.span, f"{takes}, not {len(args)}", "one too many"))
            fine = False
            break
        key = names[i] if arg.keyword is None else arg.keyword.name
        if arg.keyword is None and any(a.keyword is not None for a in args[:i]):
            title = "an argument without a name stands after one with a name"
            el.wrong(wrong_arguments(arg.span, title, "name this one too"))
            fine = False
        elif key in given:
            title = f"`{name}` gets two values for `{key}`"
            el.wrong(wrong_arguments(arg.span, title, "the second one", (given[key].span, "the first one")))
            fine = False
        elif key not in names:
            title = f"`{name}` has no parameter `{key}`"
            label = "it has " + (", ".join(f"`{n}`" for n in names) or "no parameters")
            el.wrong(wrong_arguments(arg.span, title, label, help=did_you_mean(key, names)))
            fine = False
        else:
            given[key] = arg
    bound: dict[str, Entry] = {}
    for parameter in parameters:
        key = parameter.name.name
        if key in given:
            bound[key] = argument(el, given[key].value, scope)
        elif parameter.default is not None:
            bound[key] = argument(el, parameter.default, home.bind(bound))
        elif fine:
            title = f"`{name}` needs a value for `{key}`"
            defined = (parameter.span, "has no default")
            el.wrong(wrong_arguments(use, title, f"`{key}` is missing", defined))
            fine = False
    return bound if fine else None


def _pattern(el: Elaborator, ref: PatternRef, args: tuple[t.Argument, ...], use: Span, scope: Scope) -> Value:
    home = Scope(ref.module).at(scope)
    bound = bind_arguments(el, ref.tree.name.name, ref.tree.parameters, args, use, scope, home)
    if bound is None or el.shallow:
        return HOLE_PRED
    with el.report.inside(use):
        return el.pred(ref.tree.body, home.bind(bound))


def _function(el: Elaborator, function: Function, node: t.Call, scope: Scope) -> Value:
    let, home = function.tree, function.scope.at(scope)
    bound = bind_arguments(el, let.name.name, let.parameters or (), node.args, node.span, scope, home)
    if bound is None:
        return UNKNOWN
    with el.report.inside(node.span):
        return el.expr(let.value, home.bind(bound))
