"""Axes and the lines between them, to predicates over the concatenated positions."""

from __future__ import annotations

from attnspec.check.expressions.elaborator import Elaborator
from attnspec.check.expressions.patterns import define
from attnspec.check.expressions.scope import Scope
from attnspec.errors.catalogue import listed
from attnspec.errors.clauses import axes_mistake, one_sided_axis, unknown_axis
from attnspec.errors.source import Span
from attnspec.language import tree as t
from attnspec.spec import contents, make
from attnspec.spec import expr as e
from attnspec.spec.axes import grows
from attnspec.spec.parts import Axis, Clause
from attnspec.spec.rewrite import replace

Axes = tuple[tuple[Axis, Span], ...]
_MAX_AXES = 32


def axis(el: Elaborator, node: t.Axis, scope: Scope, seen: dict[str, Span], before: Axes) -> Axes:
    """The axes after one more is declared."""
    define(node.name, f"`{node.name.name}`", seen, el.report)
    size = el.integer(node.size, scope)
    names = sorted(set(contents.names(size)) - {"m", "?"})
    if names:
        title = "the size of an axis must follow from `n` and the parameters"
        el.wrong(axes_mistake(node.size.span, title, f"depends on {listed(names)}"))
    elif "?" not in contents.free(size):
        if not grows(size):
            title = "the size of an axis must never decrease when `n` grows"
            note = "`n` is solved for from the lengths of the tensors"
            el.wrong(axes_mistake(node.size.span, title, "this may decrease, or might", note=note))
        elif isinstance(size, e.Int) and size.value < 0:
            title = "the size of an axis must not be negative"
            el.wrong(axes_mistake(node.size.span, title, f"this is {size.value}"))
    if len(before) == _MAX_AXES:
        el.wrong(axes_mistake(node.name.span, "too many axes", f"the limit is {_MAX_AXES}"))
    only = node.only.name if node.only is not None else ""
    return (*before, (Axis(node.name.name, size, only != "keys", only != "queries"), node.span))


def arrow(el: Elaborator, node: t.Arrow, scope: Scope, axes: Axes) -> list[Clause]:
    """The clause of a line between axes; none after a mistake in their names."""
    by_name = {axis.name: (axis, span) for axis, span in axes}
    local = el.pred(node.pred, scope)
    size, _ = contents.measure(local)
    el.spend(size, node.span)
    fine = True
    for name, has, other in ((node.source, "queries", "keys"), (node.target, "keys", "queries")):
        declared = by_name.get(name.name)
        if declared is None:
            el.wrong(unknown_axis(name.span, name.name, list(by_name)))
            fine = False
        elif not getattr(declared[0], has):
            el.wrong(one_sided_axis(name.span, name.name, other, declared[1]))
            fine = False
    if not fine:
        return []
    source, target = by_name[node.source.name][0], by_name[node.target.name][0]
    q, q_inside = _place("q", source, [axis for axis, _ in axes if axis.queries])
    k, k_inside = _place("k", target, [axis for axis, _ in axes if axis.keys])
    pred = replace(local, {e.Var("q"): q, e.Var("k"): k})
    assert isinstance(pred, e.Pred)
    whole = make.conjunction([*q_inside, *k_inside, pred])
    el.bound(whole, node.span)
    return [Clause(whole, node.span, (node.source.name, node.target.name, local))]


def _place(name: str, axis: Axis, axes: list[Axis]) -> tuple[e.IntExpr, list[e.Pred]]:
    """A position counted from the beginning of its axis, and the conditions that it is in the axis."""
    at = axes.index(axis)
    start = make.add([a.size for a in axes[:at]])
    here = e.Var(name)
    inside: list[e.Pred] = []
    if at > 0:
        inside.append(make.compare(">=", here, start))
    if at < len(axes) - 1:
        inside.append(make.compare("<", here, make.add([start, axis.size])))
    return make.add([here, make.negative(start)]) if start != e.Int(0) else here, inside


def no_attend(el: Elaborator, span: Span, axes: Axes) -> None:
    """Beside axes, only lines between axes say what is seen."""
    if el.length == "m" and not el.ordered:  # (beside an order there can be no axes at all)
        title = "beside axes, lines between axes say what is seen"
        name = axes[0][0].name if axes else "axis"
        labels = [(declared, "an axis") for _, declared in axes[:1]]
        help = f"write `{name} -> {name}: ...`"
        el.wrong(axes_mistake(span, title, "counts from no axis", *labels, help=help))


def no_within(el: Elaborator, span: Span, axes: Axes) -> None:
    """``within`` would restrict all lines, whose positions count from different places."""
    if el.length == "m":
        title = "`within` does not stand beside axes"
        note = "each line between axes counts `q` and `k` from 0 in its own axes, so no condition fits all lines"
        help = "name the condition with `let` and write `and` in each line that it restricts"
        label = "counts from no axis"
        labels = [(declared, "an axis") for _, declared in axes[:1]]
        el.wrong(axes_mistake(span, title, label, *labels, note=note, help=help))
