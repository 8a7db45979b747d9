"""The fields of a position in a computed order: ``q.slot``, ``k.bucket``."""

from __future__ import annotations

from attnspec.check.expressions.elaborator import Elaborator
from attnspec.check.expressions.scope import UNKNOWN, Scope, Value
from attnspec.errors.clauses import order_mistake
from attnspec.errors.names import unknown_field
from attnspec.language import tree as t
from attnspec.spec import expr as e

FIELDS = ("slot", "bucket")


def field(el: Elaborator, node: t.Field, scope: Scope) -> Value:
    """``q.slot``, ``k.bucket``."""
    name, base = node.name.name, node.base
    if name not in FIELDS:
        return el.wrong(unknown_field(node.name.span, name))
    if not isinstance(base, t.Name) or base.name not in e.POSITIONS:
        title = f"only `q` and `k` have a {name}"
        return el.wrong(order_mistake(base.span, title, "not a position", help=f"write `q.{name}` or `k.{name}`"))
    if not el.ordered:
        title = f"`{base.name}.{name}` without an order"
        help = "declare one: `order by lsh(buckets = 64)`"
        return el.wrong(order_mistake(node.span, title, "no `order` in this attention", help=help))
    place = (scope.q if base.name == "q" else scope.k).node
    if place == e.Var("?"):
        return UNKNOWN
    if place != e.Var(base.name):
        title = f"`{base.name}.{name}` inside `at`: a computed order knows only the positions themselves"
        return el.wrong(order_mistake(node.span, title, f"`{base.name}` stands for another position here"))
    slot = e.Var(f"{base.name}_slot")
    return slot if name == "slot" else e.Read("order.bucket", (e.Var("b"), e.Var("h"), slot))
