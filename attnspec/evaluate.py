"""What a core expression means: its value, computed with numpy on whole arrays of positions at once."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np

from attnspec import expr as e
from attnspec.bind import BadDivisor

Array = Any  # numpy integers of some width, or Python integers: numpy's own rules mix them
Env = Mapping[str, Array]


def holds(pred: e.Pred, env: Env) -> Array:
    """Where a predicate holds, as a boolean array of the shape that the variables broadcast to.

    ``env`` maps every free variable to an integer or an integer array. A comparison that reads outside a list is false.
    """
    match pred:
        case e.Bool(value):
            return np.bool_(value)
        case e.Cmp(op, left, right):
            (a, a_ok), (b, b_ok) = value_of(left, env), value_of(right, env)
            return np.asarray(e.COMPARE[op](a, b), dtype=bool) & a_ok & b_ok
        case e.And(args):
            result: Array = np.bool_(True)
            for arg in args:
                result = result & holds(arg, env)
                if not np.any(result):  # what is guarded by a false condition need not have a value
                    return result
            return result
        case e.Or(args):
            return reduce(operator.or_, (holds(a, env) for a in args), np.bool_(False))
        case e.Not(arg):
            return ~holds(arg, env)
        case e.Iff(left, right):
            return holds(left, env) == holds(right, env)
        case e.Any(var, domain, body):
            return reduce(operator.or_, _over(var, domain, body, env), np.bool_(False))
        case e.All(var, domain, body):
            return reduce(operator.and_, _over(var, domain, body, env), np.bool_(True))
    raise TypeError(f"not a predicate: {type(pred).__name__}")


def value_of(node: e.IntExpr, env: Env) -> tuple[Array, Array]:
    """The value of an integer expression, and where it is defined (no read outside a list)."""
    match node:
        case e.Int(value):
            return value, np.bool_(True)
        case e.Var(name):
            return env[name], np.bool_(True)
        case e.Add(terms):
            return _fold(operator.add, terms, env)
        case e.Mul(left, right):
            return _fold(operator.mul, (left, right), env)
        case e.FloorDiv(left, right) | e.Mod(left, right):
            (value, ok), (divisor, known) = value_of(left, env), value_of(right, env)
            if np.any((np.asarray(divisor) <= 0) & known):
                raise BadDivisor(int(np.min(divisor)))
            by = divisor if np.all(known) else np.where(known, divisor, 1)
            return (value // by if isinstance(node, e.FloorDiv) else value % by), ok & known
        case e.Pow(base, exponent):
            return _fold(operator.pow, (base, exponent), env)
        case e.Min(args):
            return _fold(np.minimum, args, env)
        case e.Max(args):
            return _fold(np.maximum, args, env)
        case e.Abs(arg):
            value, ok = value_of(arg, env)
            return abs(value), ok
        case e.If(cond, then, other):
            where = holds(cond, env)
            (a, a_ok), (b, b_ok) = value_of(then, env), value_of(other, env)
            return np.where(where, a, b), np.where(where, a_ok, b_ok)
        case e.Sum(var, domain, body):
            parts = [value_of(body, {**env, var: v}) for v in domain_values(domain, env)]
            total = reduce(operator.add, (p[0] for p in parts), 0)
            return total, reduce(operator.and_, (p[1] for p in parts), np.bool_(True))
        case e.Index(items, indices):
            return _index(items, indices, env)
    raise TypeError(f"not an integer expression: {type(node).__name__}")


def domain_values(domain: e.Domain, env: Env) -> tuple[int, ...]:
    """The integers that a bound variable takes; the domain's own variables must be plain integers in ``env``."""
    if isinstance(domain, e.Range):
        low, high = (int(value_of(end, env)[0]) for end in (domain.low, domain.high))
        return tuple(range(low, high))
    items: e.Nested = domain.items
    for index in domain.indices:
        at = int(value_of(index, env)[0])
        if not isinstance(items, tuple) or not 0 <= at < len(items):
            return ()
        items = items[at]
    assert isinstance(items, tuple)
    return tuple(v for v in items if isinstance(v, int))


def _over(var: str, domain: e.Domain, body: e.Pred, env: Env) -> list[Array]:
    return [holds(body, {**env, var: v}) for v in domain_values(domain, env)]


def _fold(op: Callable[[Array, Array], Array], args: tuple[e.IntExpr, ...], env: Env) -> tuple[Array, Array]:
    parts = [value_of(a, env) for a in args]
    return reduce(op, (p[0] for p in parts)), reduce(operator.and_, (p[1] for p in parts))


def _index(items: e.Nested, indices: tuple[e.IntExpr, ...], env: Env) -> tuple[Array, Array]:
    """Read a possibly ragged nested list: every entry is tried, those whose indices match are picked."""
    if isinstance(items, int):
        return items, np.bool_(True)
    (at, ok), rest = value_of(indices[0], env), indices[1:]
    value: Array = np.int64(0)
    found: Array = np.bool_(False)
    for i, item in enumerate(items):
        inner, inner_ok = _index(item, rest, env)
        here = np.asarray(at == i) & inner_ok
        value, found = np.where(here, inner, value), found | here
    return value, found & ok
