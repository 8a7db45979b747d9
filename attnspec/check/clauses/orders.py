"""Computed orders of the positions: ``order by lsh(...)``."""

from __future__ import annotations

import math

from attnspec.check.expressions import options
from attnspec.check.expressions.elaborator import Elaborator
from attnspec.check.expressions.options import Option
from attnspec.check.expressions.scope import Scope
from attnspec.errors.clauses import bad_option
from attnspec.language import tree as t
from attnspec.spec.parts import Order

ORDERS = {"lsh": {"buckets": Option("ints", None, 2), "rounds": Option("int", 1, 1), "seed": Option("int", 0, 0)}}
"""The orders and their options."""
_MAX_BUCKETS = 2**20
_MAX_ROUNDS = 64


def order(el: Elaborator, node: t.Order, scope: Scope) -> Order | None:
    """The order that a line declares; None after a mistake."""
    settings = options.read(el, node.by, ORDERS, "order", scope)
    if settings is None:
        return None
    buckets, rounds, seed = settings["buckets"], settings["rounds"], settings["seed"]
    assert isinstance(rounds, int)
    assert isinstance(seed, int)
    assert isinstance(buckets, (int, tuple))
    factors = buckets if isinstance(buckets, tuple) else (buckets,)
    if math.prod(factors) > _MAX_BUCKETS:
        el.wrong(bad_option(node.by.span, "buckets", f"at most {_MAX_BUCKETS:,} together"))
        return None
    if rounds > _MAX_ROUNDS:
        el.wrong(bad_option(node.by.span, "rounds", f"at most {_MAX_ROUNDS}"))
        return None
    return Order(tuple(map(int, factors)), rounds, seed)
