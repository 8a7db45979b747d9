"""The clauses of an attention to the parts of a spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from attnspec.check.clauses import includes, inputs, mixture, orders, rotations, scores, weights
from attnspec.check.clauses.attend import Part, group, let, line, out_of_place, word
from attnspec.check.clauses.axes import Axes, arrow, axis, no_attend, no_within
from attnspec.check.clauses.beside import beside
from attnspec.check.clauses.lines import WEIGHING, Lines
from attnspec.check.clauses.segments import Segments
from attnspec.check.expressions.elaborator import Elaborator
from attnspec.check.expressions.scope import HOLE, UNKNOWN, Entry, InputRef, Scope
from attnspec.errors.catalogue import did_you_mean
from attnspec.errors.clauses import axes_mistake, beside_mixture, misplaced, order_mistake, second_mixture
from attnspec.errors.names import defined_twice
from attnspec.errors.source import Span
from attnspec.language import tree as t
from attnspec.spec.parts import Axis, Clause, Input, Order
from attnspec.spec.real import RealExpr
from attnspec.spec.recurrence import Recurrence
from attnspec.spec.weights import Weights


@dataclass
class Body:
    """What the clauses of an attention come to."""

    attend: list[Clause] = field(default_factory=list)
    within: list[Clause] = field(default_factory=list)
    align: str = "end"
    mixture: list[Part] = field(default_factory=list)
    detached: bool = False
    axes: Axes = ()
    inputs: list[Input] = field(default_factory=list)
    order: Order | None = None
    lines: Lines = field(default_factory=Lines)
    sink: RealExpr | None = None
    weighs: weights.Lines = field(default_factory=weights.Lines)
    segments: Segments = field(default_factory=Segments)
    recurrence: Recurrence | None = None
    first: dict[str, Span] = field(default_factory=dict)
    """Where clauses that stand at most once stand."""
    pairs: list[tuple[t.Clause, Span]] = field(default_factory=list)
    """The lines that say what is seen, and where they stand in the attention itself: at an ``include``, perhaps."""

    @property
    def weights(self) -> Weights:
        """How much a pair weighs beyond softmax."""
        return self.weighs.weights


_ONCE = (t.Align, t.Order, t.Sink)


def body(el: Elaborator, clauses: tuple[t.Clause, ...], scope: Scope, seen: dict[str, Span]) -> Body:
    """Check and elaborate the clauses of an attention; ``seen`` are the names of its parameters."""
    out = Body()
    whole = tuple(includes.every(clauses, scope.module))
    has_axes = any(isinstance(c, t.Axis) for c in whole)
    el.length = "m" if has_axes else "n"
    el.ordered = any(isinstance(c, t.Order) for c in whole)
    el.has_axes = has_axes
    el.from_start = has_axes or any(isinstance(c, t.Align) and c.where.name == "start" for c in whole)
    _lines(el, clauses, scope, seen, out)
    _together(el, out, seen)
    if not (el.shallow and any(isinstance(c, t.Include) for c in clauses)):  # whose lines are not written out
        out.recurrence = out.segments.together(el, out.axes)
    rotations.disjoint(el, out.lines.rotations)
    for part in out.mixture:
        part.lines.beside(el, out.lines, part.place)
    if has_axes:
        out.align = "start"
    return out


def _lines(el: Elaborator, clauses: tuple[t.Clause, ...], scope: Scope, seen: dict[str, Span], out: Body) -> Scope:
    """Add what clauses come to; the scope behind them."""
    for clause in clauses:
        if isinstance(clause, _ONCE):
            if word(clause) in out.first:
                el.wrong(defined_twice(clause.span, f"`{word(clause)}`", out.first[word(clause)]))
            out.first.setdefault(word(clause), clause.span)
        if isinstance(clause, (t.Attend, t.Heads, t.Arrow)):
            out.pairs.append((clause, el.report.outermost(t.heading(clause))))
        scope = _clause(el, clause, scope, seen, out)
    return scope


def _include(el: Elaborator, clause: t.Include, scope: Scope, seen: dict[str, Span], out: Body) -> Scope:
    """Add the clauses of another attention; its inputs and axes are known after it."""
    before, axes = len(out.inputs), len(out.axes)
    with includes.opened(el, clause, scope) as found:
        if found is None:
            return scope
        inner = _lines(el, found.clauses, found.scope, found.seen, out)
        names: dict[str, Entry] = {i.name: inner.names[i.name] for i in out.inputs[before:]}
        declared = [(name, ref.span) for name, ref in names.items() if isinstance(ref, InputRef)]
        declared += [(axis.name, span) for axis, span in out.axes[axes:]]
        if el.shallow:  # clauses are not written out: what is declared is known by name
            for part in includes.every((clause,), scope.module):
                if isinstance(part, t.Input):
                    names[part.name.name] = UNKNOWN
                elif isinstance(part, t.Axis):
                    out.axes = (*out.axes, (Axis(part.name.name, HOLE), part.span))
        for name, span in declared:
            if name in seen:
                el.wrong(defined_twice(span, f"`{name}`", seen[name]))
            seen.setdefault(name, span)
    return scope.bind(names)


def _clause(el: Elaborator, clause: t.Clause, scope: Scope, seen: dict[str, Span], out: Body) -> Scope:
    """Add what a clause comes to; the scope of the clauses after it."""
    match clause:
        case t.Attend():
            no_attend(el, clause.span, out.axes)
            out.attend.append(line(el, clause, scope))
        case t.Within():
            no_within(el, clause.span, out.axes)
            restriction = line(el, clause, scope)
            out.within += [restriction] if restriction not in out.within else []  # two includes may both be causal
        case t.Arrow():
            out.first.setdefault("->", clause.span)
            out.attend += arrow(el, clause, scope, out.axes)
        case t.Let():
            return let(el, clause, scope, seen)
        case t.Heads():
            if any(isinstance(c, t.Arrow) for c in clause.clauses):
                out.first.setdefault("->", clause.span)
            out.attend += group(el, clause, scope, dict(seen), out.axes)
        case t.Mix(heading=span):
            if "mix" in out.first:
                el.wrong(second_mixture(span, out.first["mix"]))
            out.first.setdefault("mix", span)
            out.mixture = mixture.mix(el, clause, scope, seen)
            out.detached = clause.detached
            if clause.detached:
                out.first.setdefault("detached", span)
        case t.Align(_, where):
            _align(el, where, out)
        case t.Axis(span):
            if "->" in out.first:
                title, note = "an axis is declared after a line between axes", "axes lie in the order of declaration"
                label = (out.first["->"], "this line is before it")
                el.wrong(axes_mistake(span, title, "move it up", label, note=note))
            out.axes = axis(el, clause, scope, seen, out.axes)
        case t.Input(span, name):
            declared = inputs.declare(el, clause, scope, seen)
            out.inputs.append(declared)
            return scope.bind({name.name: InputRef(declared, span, not el.from_start)})
        case t.Order():
            out.order = orders.order(el, clause, scope)
        case t.Linear() | t.Divide() | t.Decay() | t.Delta():
            out.weighs.add(el, clause, scope, seen)
        case t.Sink():
            out.sink = scores.sink(el, clause, scope, seen.get("s"))
        case t.Recur() | t.Carry() | t.Recall() | t.Horizon():
            out.segments.add(el, clause, scope)
        case t.Include():
            return _include(el, clause, scope, seen, out)
        case _ if isinstance(clause, WEIGHING):
            out.first.setdefault(word(clause), clause.span)
            out.lines.add(el, clause, scope, seen)
        case _:
            out_of_place(el, clause, "stands inside a mixture", "not inside one")
    return scope


def _align(el: Elaborator, where: t.Name, out: Body) -> None:
    if where.name not in ("start", "end"):
        close = did_you_mean(where.name, ["start", "end"])
        title = f"there is no `align {where.name}`"
        el.wrong(misplaced(where.span, title, "expected `start` or `end`", close))
    out.align = where.name


def _together(el: Elaborator, out: Body, seen: Mapping[str, Span]) -> None:
    """What may not stand in one body."""
    mix, order = out.first.get("mix"), out.first.get("order")
    first_axis = out.axes[0][1] if out.axes else None
    for clause, span in out.pairs:
        if mix is not None and first_axis is None:
            el.wrong(beside_mixture(span, mix, word(clause)))
    if mix is not None and first_axis is not None:
        title = "axes and a mixture do not stand in one body"
        el.wrong(axes_mistake(mix, title, "the mixture", (first_axis, "an axis")))
    if order is not None:
        for other, what in ((mix, "a mixture"), (first_axis, "axes")):
            if other is not None:
                title = f"an order and {what} do not stand in one body"
                el.wrong(order_mistake(order, title, "the order", (other, "beside this")))
    if first_axis is not None:
        out.first.setdefault("axis", first_axis)
    named = {"projection": seen["projection"]} if any(i.name == "projection" for i in out.inputs) else {}
    beside(el, out.weighs, {**out.first, **named}, out.mixture)
    align = out.first.get("align")
    if first_axis is not None and align is not None and out.align == "end":
        title = "beside axes, query row i is position i: `align end` does not stand here"
        el.wrong(axes_mistake(align, title, "remove this", (first_axis, "an axis")))
