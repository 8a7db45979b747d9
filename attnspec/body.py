"""The clauses of an attention to the clauses of a spec."""

from __future__ import annotations

from dataclasses import dataclass, field

from attnspec import expr as e
from attnspec import mistakes
from attnspec import mistakes_of_value as wrong
from attnspec import simplify as s
from attnspec import tree as t
from attnspec.elaborate import Elaborator
from attnspec.lists import domain
from attnspec.modules import define
from attnspec.scope import UNKNOWN, Entry, Function, Let, ListValue, Scope
from attnspec.source import Span
from attnspec.spec import Clause


@dataclass
class Body:
    """What the clauses of an attention come to."""

    attend: list[Clause] = field(default_factory=list)
    within: list[Clause] = field(default_factory=list)
    align: str = "end"


def body(el: Elaborator, clauses: tuple[t.Clause, ...], scope: Scope, seen: dict[str, Span]) -> Body:
    """Check and elaborate the clauses of an attention; ``seen`` are the names of its parameters."""
    out = Body()
    aligned: t.Align | None = None
    for clause in clauses:
        match clause:
            case t.Attend(span, tree):
                out.attend.append(Clause(_pred(el, tree, scope), span))
            case t.Within(span, tree):
                out.within.append(Clause(_pred(el, tree, scope), span))
            case t.Let():
                scope = let(el, clause, scope, seen)
            case t.Heads():
                out.attend += _group(el, clause, scope, dict(seen))
            case t.Align(span, where):
                if where.name not in ("start", "end"):
                    title, close = (
                        f"there is no `align {where.name}`",
                        mistakes.did_you_mean(where.name, ["start", "end"]),
                    )
                    el.wrong(mistakes.misplaced(where.span, title, "expected `start` or `end`", close))
                elif aligned is not None:
                    el.wrong(mistakes.defined_twice(span, "`align`", aligned.span))
                aligned = clause
                out.align = where.name
    return out


def let(el: Elaborator, node: t.Let, scope: Scope, seen: dict[str, Span]) -> Scope:
    """The scope after a ``let``."""
    define(node.name, f"`{node.name.name}`", seen, el.report)
    entry: Entry
    if node.parameters is None:
        value = el.expr(node.value, scope)
        if isinstance(value, (e.IntExpr, e.Pred)):
            el.bound(value, node.span)
        entry = Let(node.value, scope, value, _moves(value))
    else:
        names: dict[str, Span] = {}
        for parameter in node.parameters:
            define(parameter.name, f"`{parameter.name.name}`", names, el.report)
            if parameter.default is not None:
                title = "parameters of a `let` have no defaults"
                el.wrong(mistakes.misplaced(parameter.default.span, title, "remove this"))
        unknown = scope.bind(dict.fromkeys(names, UNKNOWN))
        value = el.expr(node.value, unknown)
        entry = Function(node, scope, "pred" if isinstance(value, e.Pred) else "integer")
    return scope.bind({node.name.name: entry})


def _moves(value: object) -> bool:
    """Whether a value depends on the positions."""
    if isinstance(value, ListValue):
        return any(_moves(index) for index in value.indices)
    return isinstance(value, e.Node) and bool(s.varies(value) & e.POSITIONS)


def _pred(el: Elaborator, tree: t.Expr, scope: Scope) -> e.Pred:
    found = el.pred(tree, scope)
    el.bound(found, tree.span)  # for its limits
    return found


def _group(el: Elaborator, node: t.Heads, scope: Scope, seen: dict[str, Span]) -> list[Clause]:
    """The clauses of a head group: each holds for the heads of the group only, inside the group's ``within`` lines."""
    if node.var.name != "h":
        title = f"a group of heads is written with `h`, not `{node.var.name}`"
        el.wrong(
            mistakes.misplaced(node.var.span, title, "expected `h`", "for other names use `any` or several clauses")
        )
    heads = _heads(el, node, scope)
    attend: list[Clause] = []
    within: list[e.Pred] = []
    for clause in node.clauses:
        match clause:
            case t.Attend(span, tree):
                attend.append(Clause(_pred(el, tree, scope), span))
            case t.Within(_, tree):
                within.append(_pred(el, tree, scope))
            case t.Let():
                scope = let(el, clause, scope, seen)
            case t.Align(span):
                el.wrong(mistakes.misplaced(span, "`align` holds for all heads", "move it out of the group"))
            case t.Heads(heading=span):
                el.wrong(mistakes.misplaced(span, "groups of heads do not nest", "inside another group"))
    if not attend:  # as for a whole attention: without `attend`, every pair
        attend = [Clause(e.Bool(True), node.span if node.clauses else node.heading)]
    for pred in within:
        el.spend(s.measure(pred)[0] * len(attend), node.span)
    return [Clause(s.conjunction([heads, c.pred, *within]), c.span) for c in attend]


def _heads(el: Elaborator, node: t.Heads, scope: Scope) -> e.Pred:
    """The condition that a head is in a group."""
    over = domain(el, node.domain, scope)
    h = e.Var("h")
    if isinstance(over, ListValue):
        el.wrong(mistakes.misplaced(node.domain.span, "a list of heads holds integers", "this is a list of lists"))
    elif isinstance(over, e.Values) and s.varies(over):
        el.wrong(wrong.not_known(node.domain.span, "the heads of a group", sorted(s.varies(over))))
    elif isinstance(over, e.Values):
        if not over.indices:
            return s.disjunction([s.compare("==", h, e.Int(v)) for v in over.items if isinstance(v, int)])
        return e.Any("v", over, e.Cmp("==", h, e.Var("v")))
    elif over is not None:
        return s.conjunction([s.compare("<=", over.low, h), s.compare("<", h, over.high)])
    return e.Bool(True)
