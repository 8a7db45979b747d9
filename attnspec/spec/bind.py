"""Put values in place of variables and fold what becomes constant.

>>> from attnspec.spec.expr import Add, Int, Mul, Var
>>> str(bind(Add((Var("q"), Mul(Int(3), Var("h")))), {"h": 2}))
'q + 6'
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from attnspec.spec import expr as e
from attnspec.spec import real as r
from attnspec.spec.contents import reads_list
from attnspec.spec.rewrite import rebuild

N = TypeVar("N", bound=e.Node)


class BadDivisor(Exception):
    """A divisor that is known only for a head or a call is not positive; ``args`` is its value."""


class OutsideList(Exception):
    """A constant index lies outside its list; ``args`` are the index and the length of the list."""


def bind(node: N, values: Mapping[str, int]) -> N:
    """The node with variables replaced by integers, folded.

    Raises OutsideList where a bound index reads outside its list, BadDivisor where a divisor becomes zero or negative.
    """
    return _bind(node, values)  # type: ignore[return-value]


def _bind(node: e.Node, values: Mapping[str, int]) -> e.Node:
    def go(child: e.Node) -> e.Node:
        return _bind(child, values)

    def many(children: tuple[e.Node, ...]) -> tuple[e.Node, ...]:
        return tuple(go(c) for c in children)

    match node:
        case e.Var(name):
            return e.Int(values[name]) if name in values else node
        case e.Int() | e.Bool():
            return node
        case e.Add(terms):
            return _add(many(terms))
        case e.Mul(left, right) | e.FloorDiv(left, right) | e.Mod(left, right) | e.Pow(left, right):
            return _binary(type(node), go(left), go(right))
        case e.Min(args) | e.Max(args):
            parts = many(args)
            known = [p.value for p in parts if isinstance(p, e.Int)]
            if len(known) == len(parts):
                return e.Int(min(known) if isinstance(node, e.Min) else max(known))
            return type(node)(parts)  # type: ignore[arg-type]
        case e.Abs(arg):
            inner = go(arg)
            return e.Int(abs(inner.value)) if isinstance(inner, e.Int) else e.Abs(inner)  # type: ignore[arg-type]
        case e.If(cond, then, other):
            test = go(cond)
            if isinstance(test, e.Bool):
                return go(then) if test.value else go(other)
            return e.If(test, go(then), go(other))  # type: ignore[arg-type]
        case e.Index(items, indices):
            return _index(items, many(indices))
        case e.Read(name, indices) | e.Flag(name, indices) | r.RealRead(name, indices):
            return type(node)(name, many(indices))  # type: ignore[arg-type]
        case e.Among(item, name, indices):
            return e.Among(go(item), name, many(indices))  # type: ignore[arg-type]
        case e.Values(items, indices):
            return _values(items, many(indices))
        case e.Range(low, high):
            return e.Range(go(low), go(high))  # type: ignore[arg-type]
        case e.Sum(var, domain, body) | e.Any(var, domain, body) | e.All(var, domain, body):
            inner_values = {k: v for k, v in values.items() if k != var}
            return type(node)(var, go(domain), _bind(body, inner_values))  # type: ignore[arg-type]
        case e.Cmp(op, left, right):
            a, b = go(left), go(right)
            if isinstance(a, e.Int) and isinstance(b, e.Int):
                return e.Bool(e.COMPARE[op](a.value, b.value))
            return e.Cmp(op, a, b)  # type: ignore[arg-type]
        case e.And(args):
            return _junction(e.And, args, values, absorbing=False)
        case e.Or(args):
            return _junction(e.Or, args, values, absorbing=True)
        case e.Not(arg):
            inner = go(arg)
            return e.Bool(not inner.value) if isinstance(inner, e.Bool) else e.Not(inner)  # type: ignore[arg-type]
        case e.Iff(left, right):
            return e.Iff(go(left), go(right))  # type: ignore[arg-type]
        case r.Choose(cond, yes, no):
            test = go(cond)
            if isinstance(test, e.Bool):
                return go(yes) if test.value else go(no)
            return r.Choose(test, go(yes), go(no))  # type: ignore[arg-type]
        case r.RealExpr():
            return rebuild(node, [go(child) for child in node.children()])
    raise TypeError(f"not a core expression: {type(node).__name__}")


def _add(terms: tuple[e.Node, ...]) -> e.Node:
    constant, rest = 0, []
    for term in terms:
        if isinstance(term, e.Int):
            constant += term.value
        else:
            rest.append(term)
    if constant or not rest:
        rest.append(e.Int(constant))
    return rest[0] if len(rest) == 1 else e.Add(tuple(rest))  # type: ignore[arg-type]


def _binary(kind: type, left: e.Node, right: e.Node) -> e.Node:
    if isinstance(left, e.Int) and isinstance(right, e.Int):
        a, b = left.value, right.value
        if kind is e.Mul:
            return e.Int(a * b)
        if kind is e.Pow and b >= 0 and (abs(a) < 2 or b * abs(a).bit_length() <= 128):
            return e.Int(a**b)
        if kind in (e.FloorDiv, e.Mod) and b > 0:
            return e.Int(a // b if kind is e.FloorDiv else a % b)
    if kind in (e.FloorDiv, e.Mod) and isinstance(right, e.Int) and right.value <= 0:
        raise BadDivisor(right.value)
    if kind is e.Mul and (left == e.Int(1) or right == e.Int(1)):
        return right if left == e.Int(1) else left
    if kind is e.Mul and e.Int(0) in (left, right) and not reads_list(left) and not reads_list(right):
        return e.Int(0)  # a read outside its list makes its comparison false even here
    return kind(left, right)  # type: ignore[no-any-return]


def _index(items: tuple[e.Nested, ...], indices: tuple[e.Node, ...]) -> e.Node:
    """Walk down the levels whose index is known."""
    if not indices or not isinstance(indices[0], e.Int):
        return e.Index(items, indices)  # type: ignore[arg-type]
    at = indices[0].value
    if not 0 <= at < len(items):
        raise OutsideList(at, len(items))
    inner = items[at]
    return e.Int(inner) if isinstance(inner, int) else _index(inner, indices[1:])


def _values(items: tuple[e.Nested, ...], indices: tuple[e.Node, ...]) -> e.Node:
    while indices and isinstance(indices[0], e.Int):
        at = indices[0].value
        if not 0 <= at < len(items):
            raise OutsideList(at, len(items))
        inner = items[at]
        assert isinstance(inner, tuple)
        items, indices = inner, indices[1:]
    return e.Values(items, indices)  # type: ignore[arg-type]


def _junction(
    kind: type[e.And] | type[e.Or], args: tuple[e.Pred, ...], values: Mapping[str, int], absorbing: bool
) -> e.Node:
    """Fold a conjunction or disjunction; what a deciding argument makes irrelevant need not have a value."""
    rest: list[e.Node] = []
    failed: OutsideList | BadDivisor | None = None
    for arg in args:
        try:
            bound = _bind(arg, values)
        except (OutsideList, BadDivisor) as error:
            failed = failed or error
            continue
        if bound == e.Bool(absorbing):
            return bound
        if not isinstance(bound, e.Bool):
            rest.append(bound)
    if failed is not None:
        raise failed
    if not rest:
        return e.Bool(not absorbing)
    return rest[0] if len(rest) == 1 else kind(tuple(rest))  # type: ignore[arg-type]
