"""What a core expression means: its value, computed with numpy on whole arrays of positions at once.

An environment maps the variables to integers or integer arrays, and ``table(name)`` of each input that is read to its
array; :func:`attnspec.spec.arrays.derive` makes those arrays, what is derived from inputs included.

>>> from attnspec.spec.expr import Cmp, Int, Read, Var
>>> holds(Cmp("==", Read("doc", (Var("k"),)), Int(7)), {"k": np.arange(4), table("doc"): np.array([7, 5, 7])}).tolist()
[True, False, True, False]
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np

from attnspec.spec import expr as e
from attnspec.spec import real as r
from attnspec.spec.bind import BadDivisor

Array = Any  # numpy integers of some width, or Python integers: numpy's own rules mix them
Env = Mapping[str, Array]


def holds(pred: e.Pred, env: Env) -> Array:
    """Where a predicate holds, as a boolean array of the shape that the variables broadcast to.

    ``env`` maps every free variable to an integer or an integer array, and the tables of inputs to theirs. A comparison
    that reads outside a list or an input is false.
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
        case e.Flag(name, indices):
            value, ok = _read(env[table(name)], indices, env)
            return np.asarray(value, dtype=bool) & ok
        case e.Among(item, name, indices):
            return _among(item, env[table(name)], indices, env)
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
        case e.Read(name, indices):
            return _read(env[table(name)], indices, env)
    raise TypeError(f"not an integer expression: {type(node).__name__}")


def value_real(node: r.RealExpr, env: Env, s: Array = None) -> Array:
    """The value of a real expression in float64; ``s`` is the score so far, where the expression reads it."""
    match node:
        case r.Real(value):
            return np.float64(value)
        case r.Score():
            return s
        case r.Cast(arg):
            value, ok = value_of(arg, env)
            return np.where(ok, value, 0).astype(np.float64)
        case r.RealRead(name, indices):
            value, ok = _read(env[table(name)], indices, env)
            return np.where(ok, value, 0).astype(np.float64)
        case r.Total(terms):
            return reduce(operator.add, (value_real(t, env, s) for t in terms))
        case r.Product(left, right):
            return value_real(left, env, s) * value_real(right, env, s)
        case r.Quotient(left, right):
            with np.errstate(all="ignore"):
                return value_real(left, env, s) / value_real(right, env, s)
        case r.Apply(function, arg):
            with np.errstate(all="ignore"):
                return getattr(np, function)(value_real(arg, env, s))
        case r.Choose(cond, then, other):
            return np.where(holds(cond, env), value_real(then, env, s), value_real(other, env, s))
    raise TypeError(f"not a real expression: {type(node).__name__}")


def table(name: str) -> str:
    """The key in an environment under which the array of an input stands: no variable is called so."""
    return f"{name}[]"


def _read(array: Array, indices: tuple[e.IntExpr, ...], env: Env) -> tuple[Array, Array]:
    """Entries of an input, and where the indices are inside it."""
    inside: Array = np.bool_(True)
    places: list[Array] = []
    for index, size in zip(indices, array.shape, strict=True):
        at, ok = value_of(index, env)
        ok = np.asarray((at >= 0) & (at < size), dtype=bool) & ok
        inside = inside & ok
        places.append(np.where(ok, at, 0).astype(np.intp))
    if not array.size:
        return np.int64(0), inside & False
    return array[tuple(places)], inside


def _among(item: e.IntExpr, array: Array, indices: tuple[e.IntExpr, ...], env: Env) -> Array:
    """Whether a value stands in the last dimension of an input; negative entries match nothing."""
    value, ok = value_of(item, env)
    found: Array = np.bool_(False)
    for j in range(array.shape[-1]):
        entry, inside = _read(array, (*indices, e.Int(j)), env)
        found = found | (np.asarray((entry == value) & (entry >= 0), dtype=bool) & inside)
    return found & ok


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
