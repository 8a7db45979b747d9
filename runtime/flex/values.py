"""What a step computes: an expression of ours for each entry of a tensor.

An entry is told by its place in each dimension, which the expression reads as variables: ``.0`` is the place in the
last dimension, ``.1`` in the one before it, and so on, as broadcasting counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from attnspec.runtime.flex.bits import plain
from attnspec.spec import contents, exact, make, rewrite
from attnspec.spec import expr as e
from attnspec.spec import real as r

Node = e.IntExpr | e.Pred | r.RealExpr
Shape = tuple[int, ...]
N = TypeVar("N", bound=e.Node)


def axis(dim: int, rank: int) -> e.Var:
    """The place in a dimension, which is counted from the front."""
    return e.Var(f".{rank - 1 - dim}")


@dataclass(frozen=True)
class Value:
    """A tensor of expressions."""

    node: Node
    shape: Shape = ()

    def at(self, places: Mapping[str, e.IntExpr], shape: Shape) -> Value:
        """The same read at other places, as a tensor of another shape."""
        table = {e.Var(name): place for name, place in places.items() if e.Var(name) != place}
        return Value(substituted(self.node, table), shape)

    def dims(self, order: Sequence[int | None]) -> Value:
        """Dimensions in another order; None is one of size 1. Those left out are of size 1."""
        shape = tuple(1 if dim is None else self.shape[dim] for dim in order)
        places: dict[str, e.IntExpr] = {}
        for new, dim in enumerate(order):
            if dim is not None:
                places[axis(dim, len(self.shape)).name] = axis(new, len(shape))
        return self.at(places, shape)

    def spread(self, shape: Shape) -> Node:
        """Its entries where it is broadcast to a shape."""
        rank = len(self.shape)
        wide = {axis(d, rank): e.Int(0) for d in range(rank) if self.shape[d] == 1 != shape[len(shape) - rank + d]}
        return substituted(self.node, wide)


def substituted(node: Node, table: Mapping[e.Var, e.IntExpr]) -> Node:
    """An expression at other places, all at once."""
    if not table:
        return node
    between: dict[e.Node, e.Node] = {var: e.Var(f"{var.name}'") for var in table}
    node = rewrite.replace(node, between)
    node = rewrite.replace(node, {between[var]: place for var, place in table.items()})
    return folded(node) if any(isinstance(place, e.Int) for place in table.values()) else node


def folded(node: N) -> N:
    """An expression with what is constant in it computed."""
    node = node.map(folded)
    made: e.Node = node
    match node:
        case e.Cmp(op, left, right):
            made = make.compare(op, left, right)
        case e.And(args):
            made = make.conjunction(args)
        case e.Or(args):
            made = make.disjunction(args)
        case e.Not(arg):
            made = make.negation(arg)
        case e.Add(terms):
            made = make.add(terms)
        case e.Mul(left, right):
            made = make.multiply(left, right)
        case e.If(cond, then, other) | r.Choose(cond, then, other):
            made = make.choose(cond, then, other)
        case e.Index(_, indices) if all(isinstance(i, e.Int) for i in indices):
            with suppress(exact.Unknown):  # outside of it, in a case that never is
                made = e.Int(exact.integer(node, {}))
    return made  # type: ignore[return-value]  # a node of the same kind


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """The shape that some shapes broadcast to; PyTorch has checked them."""
    rank = max(map(len, shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(next((size for size in sizes if size != 1), 1) for sizes in zip(*padded, strict=True))


def number(node: Node) -> e.IntExpr | r.RealExpr:
    """A truth value as 1 or 0, bits as the number that they make."""
    if isinstance(node, e.Pred):
        return make.choose(node, e.Int(1), e.Int(0))
    return plain(node) if isinstance(node, e.IntExpr) else node


def predicate(node: Node) -> e.Pred:
    """A number as a truth value: whether it is not 0."""
    if isinstance(node, e.Pred):
        return node
    match number(node):
        case e.If(cond, e.Int(1), e.Int(0)):
            return cond
        case e.IntExpr() as whole:
            return make.compare("!=", whole, e.Int(0))
        case r.RealExpr() as x:
            return make.order("!=", x, r.Real(0.0))
    raise TypeError(f"not a value: {node}")


def real(node: Node) -> r.RealExpr:
    """A truth value or an integer as a real."""
    if isinstance(node, e.Pred):
        return make.real(make.choose(node, r.Real(1.0), r.Real(0.0)))
    return make.real(number(node))


Ends = tuple[int | None, int | None]
"""The least and the largest value, as far as they are known."""
Held = Callable[[str, tuple[Ends, ...]], Ends]
"""Bounds of what a table holds, between some places in each dimension."""
_NOTHING: Mapping[e.IntExpr, Ends] = {}


def unknown(table: str, at: tuple[Ends, ...]) -> Ends:
    """Tables of which nothing is known."""
    return None, None


def ends(node: e.IntExpr, held: Held = unknown, given: Mapping[e.IntExpr, Ends] = _NOTHING) -> Ends:
    """Bounds of an expression of positions, batch entries and heads; ``given`` is what is known of parts beside."""
    found = _ends(node, held, given)
    return both({node: found}, {node: given[node]})[node] if node in given else found


def _ends(node: e.IntExpr, held: Held, given: Mapping[e.IntExpr, Ends]) -> Ends:
    match node:
        case e.Int(value):
            return value, value
        case e.Var():
            return 0, None  # positions, batch entries, heads, places in dimensions: all count from 0
        case e.Read(name, indices):
            return held(name, tuple(ends(index, held, given) for index in indices))
        case e.Index(items):
            values = list(_flat(items))
            return min(values), max(values)
        case e.Add(terms):
            lows, highs = zip(*(ends(term, held, given) for term in terms), strict=True)
            return _all(sum, lows), _all(sum, highs)
        case e.Mul(left, right):
            return _product(ends(left, held, given), ends(right, held, given))
        case e.FloorDiv(left, e.Int(value)) if value > 0:
            low, high = ends(left, held, given)
            return None if low is None else low // value, None if high is None else high // value
        case e.Mod(left, e.Int(value)) if value > 0:
            low, high = ends(left, held, given)
            if low is None or high is None or low // value != high // value:
                return 0, value - 1
            return low % value, high % value
        case e.Abs(arg):
            low, high = ends(arg, held, given)
            most = None if low is None or high is None else max(abs(low), abs(high))
            return max(0, -high if high is not None else 0, low or 0), most
        case e.Min(args):
            lows, highs = zip(*(ends(arg, held, given) for arg in args), strict=True)
            return _all(min, lows), min((x for x in highs if x is not None), default=None)
        case e.Max(args):
            lows, highs = zip(*(ends(arg, held, given) for arg in args), strict=True)
            return max((x for x in lows if x is not None), default=None), _all(max, highs)
        case e.Sum(var, e.Range(e.Int(first), e.Int(end)), body):
            inner = both(given, {e.Var(var): (first, end - 1)})
            return _product((max(end - first, 0),) * 2, ends(body, held, inner))
        case e.If(cond, then, other):
            cases = [(x, bounds_of(parts(c))) for x, c in ((then, cond), (other, e.Not(cond)))]
            whole = {y: ends(y, held, given) for _, known in cases for y in known}
            alive = [case for case in cases if not any(map(_never, both(whole, case[1]).values()))]
            lows, highs = zip(*(ends(x, held, both(given, known)) for x, known in alive or cases), strict=True)
            return _all(min, lows), _all(max, highs)
    return None, None


def _never(x: Ends) -> bool:
    return x[0] is not None and x[1] is not None and x[0] > x[1]


def parts(pred: e.Pred) -> tuple[e.Pred, ...]:
    """What holds one by one where a condition does."""
    match pred:
        case e.And(args):
            return args
        case e.Not(e.Or(args)):
            return tuple(part for arg in args for part in parts(e.Not(arg)))
        case e.Not(e.Cmp(op, left, right)):
            return (e.Cmp(make.FLIPPED[op], left, right),)
        case e.Not(e.Not(arg)):
            return parts(arg)
    return (pred,)


def from_either_end(index: e.IntExpr, size: int) -> e.IntExpr:
    """An index as PyTorch means it: below 0 it counts from the end of so many.

    >>> print(from_either_end(e.Var("q"), 9), "as it was:", as_written(from_either_end(e.Var("q"), 9)))
    if q < 0 then q + 9 else q as it was: q
    """
    return make.choose(make.compare("<", index, e.Int(0)), make.add([index, e.Int(size)]), index)


def as_written(index: e.IntExpr) -> e.IntExpr | None:
    """What is taken from the end where it is below 0; None of an index that is not."""
    match index:
        case e.If(e.Cmp("<", below, e.Int(0)), _, other) if below == other:
            return below
    return None


def bounds_of(facts: Iterable[e.Pred]) -> dict[e.IntExpr, Ends]:
    """What comparisons with constants say of their other side, all of them together."""
    found: dict[e.IntExpr, Ends] = {}
    for fact in facts:
        match fact:
            case e.Cmp(op, x, e.Int(c)):
                pass
            case e.Cmp(op, e.Int(c), x):
                op = make.MIRRORED.get(op, op)
            case _:
                continue
        low = c + (op == ">") if op in (">", ">=", "==") else None
        high = c - (op == "<") if op in ("<", "<=", "==") else None
        found = both(found, {x: (low, high)})
    return found


def both(some: Mapping[e.IntExpr, Ends], more: Mapping[e.IntExpr, Ends]) -> dict[e.IntExpr, Ends]:
    """Bounds that hold together."""
    found = dict(some)
    for x, (low, high) in more.items():
        least, most = found.get(x, (None, None))
        low = max((y for y in (low, least) if y is not None), default=None)
        high = min((y for y in (high, most) if y is not None), default=None)
        found[x] = low, high
    return found


def _product(left: Ends, right: Ends) -> Ends:
    corners = [None if x is None or y is None else x * y for x in left for y in right]
    if None not in corners:
        return _all(min, corners), _all(max, corners)
    for (low, high), (least, most) in ((left, right), (right, left)):
        if least is not None and least == most:  # a constant
            low, high = (None if x is None else x * least for x in (low, high))
            return (low, high) if least >= 0 else (high, low)
    least, other = left[0], right[0]
    return (0, None) if least is not None and other is not None and least >= 0 <= other else (None, None)


def _flat(items: Sequence[Any]) -> Iterator[int]:
    for item in items:
        yield from _flat(item) if isinstance(item, tuple) else (item,)


def _all(of: Callable[[list[int]], int], values: Sequence[int | None]) -> int | None:
    known = [x for x in values if x is not None]
    return of(known) if len(known) == len(values) else None


def bound_name(node: e.Node, taken: frozenset[str]) -> str:
    """A name for a place that an ``any`` or ``sum`` runs over, which nothing in an expression has."""
    used = {part.var for part in contents.walk(node) if isinstance(part, (e.Any, e.All, e.Sum))} | taken
    names: list[str] = [*"ijpuvw", *(f"i{n}" for n in range(99))]
    return next(name for name in names if name not in used)
