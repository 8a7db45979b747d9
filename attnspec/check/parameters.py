"""Values of parameters: defaults, overrides from Python and from the command line.

>>> read_value("[1, 2 * 512, -3]")
(1, 1024, -3)
>>> write((1, (2, 3), True))
'[1, [2, 3], true]'
"""

from __future__ import annotations

import operator
from collections.abc import Mapping

from attnspec.check.expressions.collect import Report
from attnspec.check.expressions.elaborator import Elaborator, Stop
from attnspec.check.expressions.lists import kind
from attnspec.check.expressions.rules import elaborator
from attnspec.check.expressions.scope import (
    HOLE,
    HOLE_PRED,
    UNKNOWN,
    Bound,
    Entry,
    ListValue,
    Module,
    Scope,
    as_entry,
    what,
)
from attnspec.errors.diagnostic import SpecError
from attnspec.errors.names import missing_parameter, unknown_parameter, unusable_parameter, wrong_parameter_type
from attnspec.errors.source import Source
from attnspec.errors.syntax import MAX_NESTING
from attnspec.errors.values import not_known, too_large, wrong_type
from attnspec.language import tree as t
from attnspec.language.parse import parse_value
from attnspec.spec import contents, exact
from attnspec.spec import expr as e
from attnspec.spec.parts import Value
from attnspec.spec.real import RealExpr


def read_value(text: str, name: str = "<value>") -> Value:
    """The value of a constant expression of the language: an integer, a boolean or a (nested) list."""
    source = Source(name, text)
    tree = parse_value(source)
    report = Report(source)
    el = elaborator(report)
    try:
        value = _constant(el, tree, Scope(Module({})), "a value")
    except Stop as stop:
        raise SpecError([stop.diagnostic]) from None
    report.check()
    assert value is not None
    return value


def write(value: e.Nested) -> str:
    """A value as text in the language."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else f"[{', '.join(map(write, value))}]"


def default_of(el: Elaborator, parameter: t.Parameter, scope: Scope) -> Value | None:
    """The default of a parameter of an attention: it may read the parameters before it."""
    return None if parameter.default is None else _constant(el, parameter.default, scope, "a default")


def _constant(el: Elaborator, tree: t.Expr, scope: Scope, name: str) -> Value | None:
    value = el.expr(tree, scope)
    match value:
        case e.Int() | e.Bool():
            return value.value
        case ListValue(items, ()):
            return items
        case RealExpr():
            help = "a parameter is an integer: write a real number where it is used, or a quotient as in `cap / 10`"
            el.wrong(wrong_type(tree.span, "an integer, a boolean or a list", what(value), help))
        case e.IntExpr():
            return el.constant(tree, scope, name)
        case e.Node():
            names = contents.names(value)
            if "?" not in names:
                el.wrong(not_known(tree.span, name, names))
        case _ if value is not UNKNOWN:
            el.wrong(wrong_type(tree.span, "an integer, a boolean or a list", what(value)))
    return None


def holes(el: Elaborator, item: t.Pattern | t.Attention, scope: Scope) -> Scope:
    """The scope of an item that is not instantiated: of its parameters, only the types of the defaults are known."""
    names: dict[str, Entry] = {}
    for parameter in item.parameters:
        entry: Entry = UNKNOWN
        if parameter.default is not None:
            value = el.expr(parameter.default, scope.bind(names))
            if isinstance(item, t.Attention):
                if isinstance(value, e.IntExpr):
                    entry = Bound(HOLE, 1, 1)
                elif isinstance(value, e.Pred):
                    entry = Bound(HOLE_PRED, 3, 2)
        names[parameter.name.name] = entry
    return scope.bind(names)


def bind_parameters(el: Elaborator, tree: t.Attention, scope: Scope, params: Mapping[str, object]) -> dict[str, Value]:
    """The value of each parameter: the override if there is one, or the default."""
    names = [p.name.name for p in tree.parameters]
    for name in params:
        if name not in names:
            el.wrong(unknown_parameter(tree.name.span, tree.name.name, str(name), names))
    bound: dict[str, Value] = {}
    for parameter in tree.parameters:
        name = parameter.name.name
        earlier = scope.bind({n: as_entry(bound[n]) if n in bound else UNKNOWN for n in names[: names.index(name)]})
        default = default_of(el, parameter, earlier)
        if name in params:
            given = _override(el, parameter, default, params[name])
            if given is not None:
                bound[name] = given
        elif default is not None:
            bound[name] = default
        elif parameter.default is None:
            el.wrong(missing_parameter(parameter.name.span, tree.name.name, name))
    return bound


def _override(el: Elaborator, parameter: t.Parameter, default: Value | None, given: object) -> Value | None:
    name, span = parameter.name.name, parameter.span
    value = _plain(given)
    if value is None:
        el.wrong(unusable_parameter(span, name, _python_type(given)))
        return None
    if default is not None and not _same_type(default, value):
        el.wrong(wrong_parameter_type(span, name, kind(default), kind(value)))
        return None
    if not _well_formed(value):
        el.wrong(unusable_parameter(span, name, "a list of different things"))
        return None
    if _largest(value) > exact.LIMIT:
        el.wrong(too_large(span))
        return None
    return value


def _plain(given: object, depth: int = 0) -> Value | None:
    """A Python value as the language has it: bool, int or nested tuples of int; None if it is something else."""
    if isinstance(given, bool):
        return given if depth == 0 else None
    if isinstance(given, (list, tuple)) and depth < MAX_NESTING:
        items: list[e.Nested] = []
        for item in given:
            plain = _plain(item, depth + 1)
            if plain is None:
                return None
            items.append(plain)
        return tuple(items)
    try:
        return operator.index(given)  # type: ignore[arg-type]  # numpy integers are integers too
    except TypeError:
        return None


def _python_type(given: object) -> str:
    if isinstance(given, str):
        return "a text"
    if isinstance(given, (list, tuple)):
        return "a list of other things than integers"
    return f"a Python {type(given).__name__}"


def _same_type(a: e.Nested, b: e.Nested) -> bool:
    return a == () or b == () or (kind(a) == kind(b))


def _well_formed(value: e.Nested) -> bool:
    """Whether a list holds things of one kind only, at each level."""
    if isinstance(value, int):
        return True
    kinds = {kind(item) for item in value if item != ()}
    return len(kinds) <= 1 and all(map(_well_formed, value)) and not (() in value and kinds == {"an integer"})


def _largest(value: e.Nested) -> int:
    return abs(value) if isinstance(value, int) else max(map(_largest, value), default=0)
