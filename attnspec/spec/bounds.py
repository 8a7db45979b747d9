"""How large the integers in a predicate can get: decides whether a kernel may compute positions in 32 bits.

>>> from attnspec.spec.expr import Cmp, Int, Mul, Var
>>> [fits(Cmp("<", Mul(Int(factor), Var("q")), Int(9)), 1 << 28, 32) for factor in (4, 16)]
[True, False]
"""

from __future__ import annotations

from collections.abc import Mapping

from attnspec.spec import expr as e

Interval = tuple[int, int]
MOST_READ = (1 << 30) - 1
"""The largest value, negative or not, that an integer input may hold; the runtime refuses others."""


class Unbounded(Exception):
    """An intermediate value is larger than the width allows."""


def fits(node: e.Node, length: int, bits: int, rounds: int = 1) -> bool:
    """Whether every integer computed in a predicate or a score fits, for positions and sizes up to ``length``.

    Integers are signed, of so many ``bits``; inputs hold what the runtime accepts, values between -2**30 and 2**30.
    ``rounds`` are those of a computed order, whose places count through all of them.
    """
    ranges = {
        "q": (-length, length),
        "k": (0, length),
        "n": (0, length),
        "n_q": (0, length),
        "m": (0, length),
        "q_slot": (0, rounds * length),
        "k_slot": (0, rounds * length),
        "b": (0, 1 << 20),
        "batch": (0, 1 << 20),
        "h": (0, 1 << 14),
        "heads": (0, 1 << 14),
        "kv_heads": (0, 1 << 14),
    }
    try:
        _walk(node, ranges, 1 << (bits - 1))
    except Unbounded:
        return False
    return True


def _walk(node: e.Node, ranges: Mapping[str, Interval], limit: int) -> None:
    """Visit every integer of a predicate or a real expression."""
    if isinstance(node, e.IntExpr):
        interval(node, ranges, limit)
        return
    if isinstance(node, (e.Any, e.All)):
        _walk(node.body, {**ranges, node.var: _domain(node.domain, ranges, limit)}, limit)
        return
    for child in node.children():
        _walk(child, ranges, limit)


def interval(node: e.IntExpr, ranges: Mapping[str, Interval], limit: int = 1 << 63) -> Interval:
    """The smallest and largest value of an expression. Raises Unbounded beyond the limit."""
    low, high = _interval(node, ranges, limit)
    if low < -limit or high >= limit:
        raise Unbounded
    return low, high


def _interval(node: e.IntExpr, ranges: Mapping[str, Interval], limit: int) -> Interval:
    def of(child: e.IntExpr) -> Interval:
        return interval(child, ranges, limit)

    match node:
        case e.Int(value):
            return value, value
        case e.Var(name):
            return ranges[name]
        case e.Add(terms):
            low = high = 0
            for part in map(of, terms):
                low, high = low + part[0], high + part[1]
                if low < -limit or high >= limit:
                    raise Unbounded
            return low, high
        case e.Mul(left, right):
            products = [a * b for a in of(left) for b in of(right)]
            return min(products), max(products)
        case e.FloorDiv(left, right):
            (low, high), (smallest, _) = of(left), of(right)
            by = max(1, smallest)
            return min(low // by, low, 0) if low < 0 else 0, max(high // by, 0)
        case e.Mod(left, right):
            of(left)
            return 0, max(0, of(right)[1] - 1)
        case e.Pow(base, exponent):
            (low, high), (_, top) = of(base), of(exponent)
            if top > 64 and max(abs(low), abs(high)) > 1:
                raise Unbounded
            power = max(abs(low), abs(high), 1) ** max(0, top)
            return (-power if low < 0 else 0), power
        case e.Min(args):
            parts = [of(a) for a in args]
            return min(p[0] for p in parts), min(p[1] for p in parts)
        case e.Max(args):
            parts = [of(a) for a in args]
            return max(p[0] for p in parts), max(p[1] for p in parts)
        case e.Abs(arg):
            low, high = of(arg)
            return (0 if low <= 0 <= high else min(abs(low), abs(high))), max(abs(low), abs(high))
        case e.If(cond, then, other):
            _walk(cond, ranges, limit)
            (a, b), (c, d) = of(then), of(other)
            return min(a, c), max(b, d)
        case e.Sum(var, domain, body):
            first, last = _domain(domain, ranges, limit)
            low, high = interval(body, {**ranges, var: (first, last)}, limit)
            times = max(0, last - first + 1) if isinstance(domain, e.Range) else len(_leaves(domain.items))
            return min(0, low * times), max(0, high * times)
        case e.Index(items, indices):
            for index in indices:
                of(index)
            leaves = _leaves(items) or [0]
            return min(leaves), max(leaves)
        case e.Read(_, indices):
            for index in indices:
                of(index)
            # What is derived from an input (`doc.first`) is a position.
            return -MOST_READ, max(MOST_READ, ranges["k"][1])
    raise TypeError(f"not an integer expression: {type(node).__name__}")


def _domain(domain: e.Domain, ranges: Mapping[str, Interval], limit: int) -> Interval:
    if isinstance(domain, e.Range):
        low, high = interval(domain.low, ranges, limit)[0], interval(domain.high, ranges, limit)[1] - 1
        return low, max(low, high)
    leaves = _leaves(domain.items) or [0]
    return min(leaves), max(leaves)


def _leaves(items: e.Nested) -> list[int]:
    return [items] if isinstance(items, int) else [leaf for item in items for leaf in _leaves(item)]
