"""Computed orders of the positions: ``order by lsh(...)``, slots and buckets (DESIGN 2.8)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attnspec.check.expressions import options
from attnspec.check.expressions.options import Option
from attnspec.check.expressions.scope import UNKNOWN, Scope, Value
from attnspec.errors import catalogue as mistakes
from attnspec.errors import clauses as clause
from attnspec.language import tree as t
from attnspec.spec import expr as e
from attnspec.spec.spec import Order

if TYPE_CHECKING:
    from attnspec.check.expressions.rules import Elaborator

FIELDS = ("slot", "bucket")


def field(el: Elaborator, node: t.Field, scope: Scope) -> Value:
    """``q.slot``, ``k.bucket``."""
    name, base = node.name.name, node.base
    if name not in FIELDS:
        return el.wrong(mistakes.unknown_field(node.name.span, name))
    if not isinstance(base, t.Name) or base.name not in e.POSITIONS:
        title = f"only `q` and `k` have a {name}"
        return el.wrong(
            clause.order_mistake(base.span, title, "not a position", help=f"write `q.{name}` or `k.{name}`")
        )
    if not el.ordered:
        title = f"`{base.name}.{name}` without an order"
        help = "declare one: `order by lsh(buckets = 64)`"
        return el.wrong(clause.order_mistake(node.span, title, "no `order` in this attention", help=help))
    place = (scope.q if base.name == "q" else scope.k).node
    if place == e.Var("?"):
        return UNKNOWN
    if place != e.Var(base.name):
        title = f"`{base.name}.{name}` inside `at`: a computed order knows only the positions themselves"
        return el.wrong(clause.order_mistake(node.span, title, f"`{base.name}` stands for another position here"))
    slot = e.Var(f"{base.name}_slot")
    return slot if name == "slot" else e.Read("order.bucket", (e.Var("b"), e.Var("h"), slot))


_LSH = {
    "lsh": {
        "buckets": Option("ints", None, 2),
        "rounds": Option("int", 1, 1),
        "seed": Option("int", 0, 0),
    }
}
_MAX_BUCKETS = 2**20
_MAX_ROUNDS = 64


def order(el: Elaborator, node: t.Order, scope: Scope) -> Order | None:
    """The order that a line declares; None after a mistake."""
    found = options.read(el, node.by, _LSH, "order", scope)
    if found is None:
        return None
    buckets, rounds, seed = found["buckets"], found["rounds"], found["seed"]
    assert isinstance(rounds, int)
    assert isinstance(seed, int)
    assert isinstance(buckets, (int, tuple))
    factors = buckets if isinstance(buckets, tuple) else (buckets,)
    if math.prod(factors) > _MAX_BUCKETS:
        el.wrong(clause.bad_option(node.by.span, "buckets", f"at most {_MAX_BUCKETS:,} together"))
        return None
    if rounds > _MAX_ROUNDS:
        el.wrong(clause.bad_option(node.by.span, "rounds", f"at most {_MAX_ROUNDS}"))
        return None
    return Order(factors, rounds, seed)
