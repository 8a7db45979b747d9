"""Values of parameters: defaults, overrides from Python and from the command line.

>>> read_value("[1, 2 * 512, -3]")
(1, 1024, -3)
>>> write((1, (2, 3), True))
'[1, [2, 3], true]'
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping

from attnspec.check.expressions.collect import Report
from attnspec.check.expressions.elaborator import Elaborator, Stop
from attnspec.check.expressions.lists import compatible, kind, rectangular, with_reals
from attnspec.check.expressions.rules import elaborator
from attnspec.check.expressions.scope import (
    HOLE,
    HOLE_PRED,
    HOLE_REAL,
    UNKNOWN,
    Bound,
    Entry,
    ListValue,
    Module,
    RealList,
    Scope,
    as_entry,
    holds_reals,
    reals,
    what,
)
from attnspec.errors.clauses import not_finite
from attnspec.errors.diagnostic import SpecError
from attnspec.errors.names import missing_parameter, unknown_parameter, unusable_parameter, wrong_parameter_type
from attnspec.errors.source import Source, Span
from attnspec.errors.syntax import MAX_NESTING
from attnspec.errors.values import not_known, too_large, wrong_type
from attnspec.language import tree as t
from attnspec.language.parse import parse_value
from attnspec.spec import contents, exact, make
from attnspec.spec import expr as e
from attnspec.spec import real as r
from attnspec.spec.parts import Value


def read_value(text: str, name: str = "<value>") -> Value:
    """The value of a constant expression of the language: a number, a boolean or a (nested) list."""
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


def write(value: r.Reals) -> str:
    """A value as text in the language."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"[{', '.join(map(write, value))}]" if isinstance(value, tuple) else repr(value)


def default_of(el: Elaborator, parameter: t.Parameter, scope: Scope) -> Value | None:
    """The default of a parameter of an attention: it may read the parameters before it."""
    return None if parameter.default is None else _constant(el, parameter.default, scope, "a default")


def _constant(el: Elaborator, tree: t.Expr, scope: Scope, name: str) -> Value | None:
    value = el.expr(tree, scope)
    match value:
        case e.Int() | e.Bool():
            return value.value
        case ListValue(items, ()) | RealList(items, _, ()):
            return items
        case r.RealExpr() if (number := make.constant(value)) is not None:
            return number
        case e.IntExpr():
            return el.constant(tree, scope, name)
        case e.Node():
            names = contents.names(value)
            if "?" not in names:
                el.wrong(not_known(tree.span, name, names))
        case _ if value is not UNKNOWN:
            el.wrong(wrong_type(tree.span, "a number, a boolean or a list", what(value)))
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
                elif isinstance(value, r.RealExpr):
                    entry = Bound(HOLE_REAL, 2, 2)
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
        earlier = scope.bind({n: as_entry(bound[n], n) if n in bound else UNKNOWN for n in names[: names.index(name)]})
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
    if holds_reals(value) or (default is not None and holds_reals(default)):
        return _as_reals(el, span, name, value)
    if _largest(value) > exact.LIMIT:
        el.wrong(too_large(span))
        return None
    return value


def _as_reals(el: Elaborator, span: Span, name: str, value: r.Reals) -> Value | None:
    """A real, or a list of reals, in which integers may stand; None after a mistake."""
    if not rectangular(value):
        el.wrong(unusable_parameter(span, name, "a list of lists of different lengths, or without entries"))
        return None
    try:
        found = reals(value) if isinstance(value, tuple) else float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(_largest(found)):
        el.wrong(not_finite(span))
        return None
    return found


def _plain(given: object, depth: int = 0) -> r.Reals | None:
    """A Python value as the language has it: bool, numbers or nested tuples of these; None if it is something else.

    Arrays and tensors are lists, or numbers where they have no dimensions.
    """
    given = given.tolist() if hasattr(given, "tolist") else given
    if isinstance(given, bool):
        return given if depth == 0 else None
    if isinstance(given, (list, tuple)) and depth < MAX_NESTING:
        items: list[r.Reals] = []
        for item in given:
            plain = _plain(item, depth + 1)
            if plain is None:
                return None
            items.append(plain)
        return tuple(items)
    try:
        return operator.index(given)  # type: ignore[arg-type]  # numpy integers are integers too
    except TypeError:
        return given if isinstance(given, float) else None


def _python_type(given: object) -> str:
    if isinstance(given, str):
        return "a text"
    if isinstance(given, (list, tuple)):
        return "a list of other things than numbers"
    return f"a Python {type(given).__name__}"


def _same_type(default: r.Reals, value: r.Reals) -> bool:
    """Whether a value may stand for a default: of its kind, or integers where it has reals."""
    if default == () or value == () or kind(default) == kind(value):
        return True
    return holds_reals(default) and kind(default) == kind(with_reals(value))


def _well_formed(value: r.Reals) -> bool:
    """Whether a list holds things of one kind only, at each level."""
    if not isinstance(value, tuple):
        return True
    rest = [item for item in value if item != ()]
    numbers = any(not isinstance(item, tuple) for item in rest)
    alike = all(compatible(item, rest[0]) for item in rest)
    return alike and all(map(_well_formed, value)) and not (() in value and numbers)


def _largest(value: r.Reals) -> float:
    """The largest magnitude in a value; that of what is no number is no number."""
    if not isinstance(value, tuple):
        return abs(value)
    parts = list(map(_largest, value))
    return math.nan if any(map(math.isnan, parts)) else max(parts, default=0)
