"""Put values in place of variables and fold what becomes constant.

:mod:`attnspec.spec.make` folds too, but what a person reads: it flattens and sorts, and refuses large numbers. Here an
expression keeps its form, and numbers may have any size.

>>> from attnspec.spec.expr import Add, Int, Mul, Var
>>> str(bind(Add((Var("q"), Mul(Int(3), Var("h")))), {"h": 2}))
'q + 6'
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from attnspec.errors.values import MAX_RANGE
from attnspec.spec import expr as e
from attnspec.spec import real as r
from attnspec.spec.contents import reads_list

N = TypeVar("N", bound=e.Node)


class BadDivisor(Exception):
    """A divisor that is known only for a head or a call is not positive; ``args`` is its value."""


class LargeRange(Exception):
    """A range, or ranges inside each other, with too many values to be gone through; ``args`` is how many."""


class OutsideList(Exception):
    """A constant index lies outside its list; ``args`` are the index and the length of the list."""


def bind(node: N, values: Mapping[str, int]) -> N:
    """The node with variables replaced by integers, folded.

    Raises OutsideList where a bound index reads outside its list, BadDivisor where a divisor becomes zero or negative,
    LargeRange where a range gets too many values.
    """
    return _bind(node, values)  # type: ignore[return-value]


def require_range(low: int, high: int) -> None:
    """Raise LargeRange where a range has too many values to be gone through."""
    if high - low > MAX_RANGE:
        raise LargeRange(high - low)


def _bind(node: e.Node, values: Mapping[str, int]) -> e.Node:
    match node:
        case e.Var(name):
            return e.Int(values[name]) if name in values else node
        case e.If(cond, then, other) | r.Choose(cond, then, other):
            test = bind(cond, values)
            if isinstance(test, e.Bool):  # what is not chosen need not have a value
                return bind(then if test.value else other, values)
            return type(node)(test, bind(then, values), bind(other, values))  # type: ignore[arg-type]
        case e.Sum(var, domain, body) | e.Any(var, domain, body) | e.All(var, domain, body):
            inner = {name: value for name, value in values.items() if name != var}
            return type(node)(var, bind(domain, values), bind(body, inner))  # type: ignore[arg-type]
        case e.And(args):
            return _junction(e.And, args, values, absorbing=False)
        case e.Or(args):
            return _junction(e.Or, args, values, absorbing=True)
    return _folded(node.map(lambda part: bind(part, values)))


def _folded(node: e.Node) -> e.Node:
    """A node over bound parts: a constant if they are, and without what adds or multiplies nothing."""
    match node:
        case e.Add(terms):
            rest = [term for term in terms if not isinstance(term, e.Int)]
            constant = sum(term.value for term in terms if isinstance(term, e.Int))
            if constant or not rest:
                rest.append(e.Int(constant))
            return rest[0] if len(rest) == 1 else e.Add(tuple(rest))
        case e.Mul(e.Int(a), e.Int(b)):
            return e.Int(a * b)
        case e.Mul(e.Int(1), other) | e.Mul(other, e.Int(1)):
            return other
        case e.Mul(e.Int(0), other) | e.Mul(other, e.Int(0)) if not reads_list(other):
            return e.Int(0)  # a read outside its list makes its comparison false even here
        case e.FloorDiv(_, e.Int(by)) | e.Mod(_, e.Int(by)) if by <= 0:
            raise BadDivisor(by)
        case e.FloorDiv(e.Int(a), e.Int(b)):
            return e.Int(a // b)
        case e.Mod(e.Int(a), e.Int(b)):
            return e.Int(a % b)
        case e.Pow(e.Int(a), e.Int(b)) if b >= 0 and (abs(a) < 2 or b * abs(a).bit_length() <= 128):
            return e.Int(a**b)
        case e.Min(args) | e.Max(args) if all(isinstance(arg, e.Int) for arg in args):
            known = [arg.value for arg in args if isinstance(arg, e.Int)]
            return e.Int(min(known) if isinstance(node, e.Min) else max(known))
        case e.Abs(e.Int(value)):
            return e.Int(abs(value))
        case e.Cmp(op, e.Int(a), e.Int(b)):
            return e.Bool(e.COMPARE[op](a, b))
        case e.Range(e.Int(low), e.Int(high)):
            require_range(low, high)
        case e.Not(e.Bool(value)):
            return e.Bool(not value)
        case e.Index(items, (e.Int(at), *more)) | e.Values(items, (e.Int(at), *more)):
            if not 0 <= at < len(items):
                raise OutsideList(at, len(items))
            entry = items[at]
            return e.Int(entry) if isinstance(entry, int) else _folded(type(node)(entry, tuple(more)))
    return node


def _junction(
    kind: type[e.And] | type[e.Or], args: tuple[e.Pred, ...], values: Mapping[str, int], absorbing: bool
) -> e.Pred:
    """Fold a conjunction or disjunction; what a deciding argument makes irrelevant need not have a value."""
    rest: list[e.Pred] = []
    failed: OutsideList | BadDivisor | None = None
    for arg in args:
        try:
            bound = bind(arg, values)
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
    return rest[0] if len(rest) == 1 else kind(tuple(rest))
