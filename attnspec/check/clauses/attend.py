"""The lines that make up one softmax: ``attend``, ``within``, ``let`` and groups of heads."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from attnspec.check.clauses import weights
from attnspec.check.clauses.axes import Axes, arrow, no_attend, no_within
from attnspec.check.clauses.includes import opened
from attnspec.check.clauses.lines import WEIGHING, Lines
from attnspec.check.expressions.elaborator import Elaborator
from attnspec.check.expressions.lists import domain
from attnspec.check.expressions.patterns import define
from attnspec.check.expressions.scope import UNKNOWN, Entry, Function, Let, ListValue, RealList, Scope
from attnspec.errors.clauses import misplaced
from attnspec.errors.source import Span
from attnspec.errors.values import not_known
from attnspec.language import tree as t
from attnspec.spec import contents, make
from attnspec.spec import expr as e
from attnspec.spec.parts import Branch, Clause
from attnspec.spec.real import RealExpr


@dataclass
class Part:
    """What the lines of one branch of a mixture come to; ``place`` is its heading."""

    place: Span
    attend: list[Clause] = field(default_factory=list)
    within: list[Clause] = field(default_factory=list)
    times: int = 1
    share: RealExpr | None = None
    lines: Lines = field(default_factory=Lines)
    weighs: weights.Lines = field(default_factory=weights.Lines)
    first: dict[str, Span] = field(default_factory=dict)
    """Where lines about vectors and scores stand, the first of each kind."""

    @property
    def branch(self) -> Branch:
        """The branch."""
        own, rotations = self.lines, tuple(rotation for rotation, _ in self.lines.rotations)
        pairs = (tuple(self.attend), tuple(self.within))
        made = Branch(*pairs, self.times, self.share, own.score, own.scale, rotations, own.normalized)
        return replace(made, weights=self.weighs.weights)


def branch(el: Elaborator, clauses: tuple[t.Clause, ...], scope: Scope, seen: dict[str, Span], out: Part) -> None:
    """Add what clauses of one branch of a mixture come to."""
    for clause in clauses:
        match clause:
            case t.Attend():
                out.attend.append(line(el, clause, scope))
            case t.Within():
                out.within.append(line(el, clause, scope))
            case t.Let():
                scope = let(el, clause, scope, seen)
            case t.Heads():
                out.attend += group(el, clause, scope, dict(seen), ())
            case t.Include():
                with opened(el, clause, scope) as found:
                    if found is not None:
                        branch(el, found.clauses, found.scope, found.seen, out)
            case t.Linear() | t.Divide() | t.Decay() | t.Delta():
                out.weighs.add(el, clause, scope, seen)
            case _ if isinstance(clause, WEIGHING):
                out.first.setdefault(word(clause), clause.span)
                out.lines.add(el, clause, scope, seen)
            case _:
                out_of_place(el, clause, "holds for all branches", "move it out of the mixture")
                scope = _known(clause, scope)


def line(el: Elaborator, node: t.Attend | t.Within, scope: Scope) -> Clause:
    """The clause of a line, within the limits."""
    pred = el.pred(node.pred, scope)
    el.bound(pred, node.pred.span)
    return Clause(pred, node.span)


def let(el: Elaborator, node: t.Let, scope: Scope, seen: dict[str, Span]) -> Scope:
    """The scope after a ``let``."""
    define(node.name, f"`{node.name.name}`", seen, el.report)
    entry: Entry
    if node.parameters is None:
        value = el.expr(node.value, scope)
        if isinstance(value, e.Node):
            el.bound(value, node.span)
        entry = Let(node.value, scope, value, _moves(value))
    else:
        names: dict[str, Span] = {}
        for parameter in node.parameters:
            define(parameter.name, f"`{parameter.name.name}`", names, el.report)
            if parameter.default is not None:
                title = "parameters of a `let` have no defaults"
                el.wrong(misplaced(parameter.default.span, title, "remove this"))
        unknown = scope.bind(dict.fromkeys(names, UNKNOWN))
        value = el.expr(node.value, unknown)
        entry = Function(node, scope, "pred" if isinstance(value, e.Pred) else "integer")
    return scope.bind({node.name.name: entry})


def _moves(value: object) -> bool:
    """Whether a value depends on the positions."""
    if isinstance(value, ListValue | RealList):
        return any(_moves(index) for index in value.indices)
    return isinstance(value, e.Node) and bool(contents.free(value) & (e.POSITIONS | e.SLOTS))


def group(el: Elaborator, node: t.Heads, scope: Scope, seen: dict[str, Span], axes: Axes) -> list[Clause]:
    """The clauses of a head group: each holds for the heads of the group only, inside the group's ``within`` lines."""
    if node.var.name != "h":
        title = f"a group of heads is written with `h`, not `{node.var.name}`"
        el.wrong(misplaced(node.var.span, title, "expected `h`", "for other names use `any` or several clauses"))
    heads = _heads(el, node, scope)
    attend, within = _of_group(el, node.clauses, scope, seen, axes)
    if not attend:  # as for a whole attention: without `attend`, every pair
        span = node.span if node.clauses else node.heading
        no_attend(el, span, axes)
        attend = [Clause(e.Bool(True), span)]
    for pred in within:
        el.spend(contents.measure(pred)[0] * len(attend), node.span)
    return [Clause(make.conjunction([heads, c.pred, *within]), c.span, _in_group(c, heads)) for c in attend]


def _of_group(
    el: Elaborator, clauses: tuple[t.Clause, ...], scope: Scope, seen: dict[str, Span], axes: Axes
) -> tuple[list[Clause], list[e.Pred]]:
    """The ``attend`` lines of a group and what restricts them."""
    attend: list[Clause] = []
    within: list[e.Pred] = []
    for clause in clauses:
        match clause:
            case t.Attend():
                no_attend(el, clause.span, axes)
                attend.append(line(el, clause, scope))
            case t.Within():
                no_within(el, clause.span, axes)
                within.append(line(el, clause, scope).pred)
            case t.Arrow():
                attend += arrow(el, clause, scope, axes)
            case t.Let():
                scope = let(el, clause, scope, seen)
            case t.Heads(heading=span):
                el.wrong(misplaced(span, "groups of heads do not nest", "inside another group"))
            case t.Include():
                with opened(el, clause, scope) as found:
                    if found is not None:
                        more, limits = _of_group(el, found.clauses, found.scope, found.seen, axes)
                        attend += more
                        within += limits
            case _:
                out_of_place(el, clause, "holds for all heads", "move it out of the group")
                scope = _known(clause, scope)
    return attend, within


def _in_group(clause: Clause, heads: e.Pred) -> tuple[str, str, e.Pred] | None:
    """The arrow of a clause, for the heads of a group."""
    if clause.arrow is None:
        return None
    source, target, pred = clause.arrow
    return source, target, make.conjunction([heads, pred])


def out_of_place(el: Elaborator, clause: t.Clause, title: str, label: str, help: str = "") -> None:
    """A clause in a place where it means nothing."""
    el.wrong(misplaced(t.heading(clause), f"`{word(clause)}` {title}", label, help))


def _known(clause: t.Clause, scope: Scope) -> Scope:
    """The scope behind a clause in a wrong place: what reads an input there is not wrong as well."""
    return scope.bind({clause.name.name: UNKNOWN}) if isinstance(clause, t.Input) else scope


def word(clause: t.Clause) -> str:
    """The word that a clause begins with; for a line between axes, its arrow."""
    if isinstance(clause, t.Arrow):
        return "->"
    return "for" if isinstance(clause, t.Heads) else type(clause).__name__.lower()


def _heads(el: Elaborator, node: t.Heads, scope: Scope) -> e.Pred:
    """The condition that a head is in a group."""
    over = domain(el, node.domain, scope)
    h = e.Var("h")
    if isinstance(over, ListValue):
        el.wrong(misplaced(node.domain.span, "a list of heads holds integers", "this is a list of lists"))
    elif isinstance(over, e.Values) and contents.varies(over):
        el.wrong(not_known(node.domain.span, "the heads of a group", sorted(contents.varies(over))))
    elif isinstance(over, e.Values):
        if not over.indices:
            return make.disjunction([make.compare("==", h, e.Int(v)) for v in over.items if isinstance(v, int)])
        return e.Any("v", over, e.Cmp("==", h, e.Var("v")))
    elif over is not None:
        return make.conjunction([make.compare("<=", over.low, h), make.compare("<", h, over.high)])
    return e.Bool(True)
