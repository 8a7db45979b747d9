"""Exact values of core expressions in plain Python integers, where everything they read is known.

The checker needs this to test divisors, exponents and indices; :mod:`attnspec.spec.evaluate` is the same for arrays.

>>> from attnspec.spec.expr import Add, Int, Var
>>> integer(Add((Var("i"), Int(1))), {"i": 4})
5
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attnspec.spec import expr as e
from attnspec.spec import real as r

LIMIT = 2**62
"""The largest magnitude of an integer in a spec."""

Env = Mapping[str, int]


class Unknown(Exception):
    """Raised where there is no value: a variable that is not known, or an operation that has no result."""


class TooLarge(Exception):
    """Raised where an integer would go beyond LIMIT."""


def limited(value: int) -> int:
    """The value itself, if it is within the limit."""
    if abs(value) > LIMIT:
        raise TooLarge
    return value


def power(base: int, exponent: int) -> int:
    """``base ** exponent``, without ever computing a number far beyond the limit."""
    if abs(base) > 1 and exponent > 62:
        raise TooLarge
    return limited(base**exponent)


def integer(node: e.IntExpr, env: Env) -> int:
    """The value of an integer expression; Unknown if it reads a variable that ``env`` does not have."""
    match node:
        case e.Int(value):
            return value
        case e.Var(name):
            if name not in env:
                raise Unknown
            return env[name]
        case e.Add(terms):
            return limited(sum(integer(t, env) for t in terms))
        case e.Mul(left, right):
            return limited(integer(left, env) * integer(right, env))
        case e.FloorDiv(left, right):
            return integer(left, env) // _positive(integer(right, env))
        case e.Mod(left, right):
            return integer(left, env) % _positive(integer(right, env))
        case e.Pow(base, exponent):
            b, x = integer(base, env), integer(exponent, env)
            if x < 0:
                raise Unknown
            return power(b, x)
        case e.Min(args):
            return min(integer(a, env) for a in args)
        case e.Max(args):
            return max(integer(a, env) for a in args)
        case e.Abs(arg):
            return abs(integer(arg, env))
        case e.If(cond, then, other):
            return integer(then if truth(cond, env) else other, env)
        case e.Sum(var, domain, body):
            return limited(sum(integer(body, {**env, var: v}) for v in values(domain, env)))
        case e.Index(items, indices):
            found = entry(items, indices, env)
            if not isinstance(found, int):
                raise Unknown
            return found
        case e.Read():
            raise Unknown
    raise TypeError(f"not an integer expression: {type(node).__name__}")


def truth(node: e.Pred, env: Env) -> bool:
    """Whether a predicate holds; Unknown if it reads a variable that ``env`` does not have."""
    match node:
        case e.Bool(value):
            return value
        case e.Cmp(op, left, right):
            return bool(e.COMPARE[op](integer(left, env), integer(right, env)))
        case e.And(args):
            return all(truth(a, env) for a in args)
        case e.Or(args):
            return any(truth(a, env) for a in args)
        case e.Not(arg):
            return not truth(arg, env)
        case e.Iff(left, right):
            return truth(left, env) == truth(right, env)
        case e.Any(var, domain, body):
            return any(truth(body, {**env, var: v}) for v in values(domain, env))
        case e.All(var, domain, body):
            return all(truth(body, {**env, var: v}) for v in values(domain, env))
        case e.Flag() | e.Among() | r.Order():
            raise Unknown
    raise TypeError(f"not a predicate: {type(node).__name__}")


def values(domain: e.Domain, env: Env) -> Iterator[int]:
    """The integers of a domain."""
    if isinstance(domain, e.Range):
        yield from range(integer(domain.low, env), integer(domain.high, env))
        return
    found = entry(domain.items, domain.indices, env)
    if isinstance(found, int):
        raise Unknown
    yield from (v for v in found if isinstance(v, int))


def entry(items: e.Nested, indices: tuple[e.IntExpr, ...], env: Env) -> e.Nested:
    """An entry of a nested list; Unknown if an index is not in it."""
    for index in indices:
        at = integer(index, env)
        if isinstance(items, int) or not 0 <= at < len(items):
            raise Unknown
        items = items[at]
    return items


def real_entry(items: r.Reals, indices: tuple[e.IntExpr, ...]) -> float:
    """An entry of a list of reals at constant indices; 0 outside."""
    for index in indices:
        at = integer(index, {})
        assert isinstance(items, tuple)
        if not 0 <= at < len(items):
            return 0.0
        items = items[at]
    assert not isinstance(items, tuple)
    return items


def _positive(value: int) -> int:
    if value <= 0:
        raise Unknown
    return value
