"""Options written as the arguments of a call: ``lsh(buckets = 64)``, ``rope(theta = 10000)``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from attnspec.check.expressions import inputs
from attnspec.check.expressions.elaborator import Elaborator
from attnspec.check.expressions.scope import UNKNOWN, InputRef, ListValue, RealList, Scope, Value
from attnspec.errors.clauses import bad_option, not_finite, unknown_option
from attnspec.errors.names import wrong_arguments
from attnspec.errors.values import not_known
from attnspec.language import tree as t
from attnspec.spec import contents, exact, make
from attnspec.spec import expr as e
from attnspec.spec import real as r

Setting = float | int | str | tuple[int, ...] | tuple[float, ...] | r.RealExpr


@dataclass(frozen=True, slots=True)
class Option:
    """An option: its kind and its limits.

    Kinds are ``real``, ``int``, ``ints``, ``bool``, words separated by ``|``, and ``frequencies``: a real for each pair
    of dimensions, by a formula, a list or an input.
    """

    kind: str
    default: Setting | None = None
    low: float = 0
    high: float = math.inf
    above: bool = False
    """Whether ``low`` itself is excluded."""
    even: bool = False
    """Whether it must be even (as ``ints`` always are)."""
    optional: bool = False
    """Whether it may be left out without a default."""
    formula: bool = False
    """Whether it may be worked out at the call, from its sizes and inputs."""

    @property
    def wanted(self) -> str:
        """What it must be, in words."""
        if "|" in self.kind:
            return " or ".join(f"`{word}`" for word in self.kind.split("|"))
        if self.kind == "bool":
            return "`true` or `false`"
        if self.kind == "frequencies":
            return "a formula over `frequency` and `pair`, a list of numbers, or an input of one number for each pair"
        if self.kind == "ints":
            return f"an even integer or a list of even integers, at least {self.low:g}"
        limit = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        limit += f" and at most {self.high:g}" if self.high < math.inf else ""
        noun = "a number" if self.kind == "real" else "an even integer" if self.even else "an integer"
        return f"{noun}{',' if self.even else ''} {limit}"


def read(
    el: Elaborator, node: t.Call, tables: Mapping[str, Mapping[str, Option]], of: str, scope: Scope
) -> dict[str, Setting] | None:
    """All options of a call, defaults filled in; None after a mistake, or where a value is not known yet."""
    name = node.callee.name
    if name not in tables:
        el.wrong(unknown_option(node.callee.span, f"there is no {of}", name, tables))
        return None
    table = tables[name]
    settings: dict[str, Setting | None] = {}
    for i, arg in enumerate(node.args):
        if arg.keyword is None and (i >= len(table) or any(a.keyword is not None for a in node.args[:i])):
            title = f"`{name}` takes {len(table)} options" if i >= len(table) else "name this one too"
            el.wrong(wrong_arguments(arg.span, title, "name it, as in `theta = 10000`"))
            return None
        key = list(table)[i] if arg.keyword is None else arg.keyword.name
        if key not in table:
            assert arg.keyword is not None
            el.wrong(unknown_option(arg.keyword.span, f"`{name}` has no option", key, table))
            return None
        if key in settings:
            el.wrong(wrong_arguments(arg.span, f"`{name}` gets two values for `{key}`", "the second one"))
            return None
        settings[key] = _value(el, key, table[key], arg.value, scope)
    for key, option in table.items():
        if key not in settings and option.default is None and not option.optional:
            title = f"`{name}` needs a value for `{key}`"
            el.wrong(wrong_arguments(node.span, title, f"`{key}` is missing"))
            return None
        if key not in settings and option.default is not None:
            settings[key] = option.default
    if any(value is None for value in settings.values()):
        return None
    return {key: value for key, value in settings.items() if value is not None}


def _value(el: Elaborator, key: str, option: Option, tree: t.Expr, scope: Scope) -> Setting | None:
    """The value of an option; None if it is none."""
    if "|" in option.kind:
        words = option.kind.split("|")
        if isinstance(tree, t.Name) and tree.name in words:
            return tree.name
        if isinstance(tree, t.Name):
            el.wrong(unknown_option(tree.span, f"`{key}` cannot be", tree.name, words))
        else:
            el.wrong(bad_option(tree.span, key, option.wanted))
        return None
    if option.kind == "frequencies":
        return _frequencies(el, key, option, tree, scope)
    value = el.expr(tree, scope) if option.kind != "real" or not option.formula else _open(el, tree, scope)
    if value is UNKNOWN or (isinstance(value, e.Node) and "?" in contents.free(value)):
        return None
    setting: Setting | None = None
    if option.kind == "bool" and isinstance(value, e.Bool):
        return value.value
    if option.kind == "ints" and isinstance(value, ListValue) and value.items:
        setting = tuple(v for v in value.items if isinstance(v, int))
        setting = setting if len(setting) == len(value.items) else None
    elif option.kind != "bool" and isinstance(
        value, e.IntExpr if option.kind in ("int", "ints") else (e.IntExpr, r.RealExpr)
    ):
        setting = _number(el, value, tree)
        if setting is None and not contents.names(value):
            return None
        if setting is None and option.formula:
            return r.valued(make.real(value))
    if setting is None and isinstance(value, e.Node) and (names := contents.names(value)):
        el.wrong(not_known(tree.span, f"`{key}`", names))
        return None
    each = setting if isinstance(setting, tuple) else (setting,)
    if setting is None or not all(_fits(option, v) for v in each):
        el.wrong(bad_option(tree.span, key, option.wanted))
        return None
    return setting


def _open(el: Elaborator, tree: t.Expr, scope: Scope) -> Value:
    """An expression in whose conditions reals may be compared."""
    el.orders_reals = True
    try:
        return el.expr(tree, scope)
    finally:
        el.orders_reals = False


def _frequencies(el: Elaborator, key: str, option: Option, tree: t.Expr, scope: Scope) -> Setting | None:
    """A formula, a list of numbers, or an input that is read at each pair."""
    value = _open(el, tree, scope)
    if isinstance(value, InputRef):
        value = inputs.read(el, value, [(e.Var("pair"), tree.span)], tree.span)
    if isinstance(value, ListValue | RealList) and value.items and not value.indices:
        numbers = tuple(float(x) for x in value.items if not isinstance(x, tuple))
        if len(numbers) == len(value.items):
            return numbers
    if isinstance(value, (e.IntExpr, r.RealExpr)):
        el.bound(value, tree.span)
        return None if "?" in contents.free(value) else r.valued(make.real(value))
    if value is not UNKNOWN:
        el.wrong(bad_option(tree.span, key, option.wanted))
    return None


def _number(el: Elaborator, value: make.Number, tree: t.Expr) -> float | int | None:
    """The value of a constant; integers stay integers."""
    try:
        return exact.integer(value, {}) if isinstance(value, e.IntExpr) else make.constant(value)
    except exact.Unknown:
        return None
    except (exact.TooLarge, make.NotFinite):
        el.wrong(not_finite(tree.span))
        return None


def _fits(option: Option, value: Setting | None) -> bool:
    assert isinstance(value, (int, float))
    if not option.low <= value <= option.high or (option.above and value == option.low):
        return False
    return not (option.even or option.kind == "ints") or value % 2 == 0
