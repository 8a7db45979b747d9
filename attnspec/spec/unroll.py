"""Comparisons as cases without choices, and sums written out; how far that may go.

>>> from attnspec.check.check import check_text
>>> pred = check_text("attention a { attend (sum i in 0..2: (if q == k then i else q)) < 3 }").pred.args[0]
>>> for conditions, rest in cases(pred):
...     print(*conditions, "->", rest)
q == k -> 0 + 1 < 3
not q == k -> q + q < 3
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from attnspec.errors.values import MAX_COMBINATIONS, MAX_INT
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.bind import BadDivisor, LargeRange, OutsideList, bind
from attnspec.spec.bounds import Interval, Unbounded, interval
from attnspec.spec.evaluate import domain_values
from attnspec.spec.rewrite import replace

N = TypeVar("N", bound=e.Node)
P = TypeVar("P", bound=e.Pred)

_MAX_CHOICES = 256
"""Choices in one comparison; each doubles its cases, but for lists of one entry."""


class ManyCases(Exception):
    """A comparison holds more conditional values than can be told apart."""


def cases(pred: P) -> Iterator[tuple[tuple[e.Pred, ...], P]]:
    """A comparison as cases without conditional values, list reads and sums: (conditions, comparison without them).

    Raises ManyCases where there are too many to be told apart.
    """
    yield from _cases(unrolled(pred), _MAX_CHOICES)  # type: ignore[misc]


def _cases(pred: e.Node, most: int) -> Iterator[tuple[tuple[e.Pred, ...], e.Node]]:
    choice = _choice(pred)
    if choice is None:
        yield (), pred
        return
    if most == 0:
        raise ManyCases
    branches: list[tuple[e.Pred, dict[e.Node, e.Node]]] = []
    if isinstance(choice, e.If):
        alike = [node for node in contents.walk(pred) if isinstance(node, e.If) and node.cond == choice.cond]
        branches.append((choice.cond, {node: node.then for node in alike}))
        branches.append((e.Not(choice.cond), {node: node.other for node in alike}))
    else:
        for at, item in enumerate(choice.items):
            inner = e.Int(item) if isinstance(item, int) else e.Index(item, choice.indices[1:])
            branches.append((e.Cmp("==", choice.indices[0], e.Int(at)), {choice: inner}))
    for condition, values in branches:
        for conditions, rest in _cases(replace(pred, values), most - 1):
            yield (condition, *conditions), rest


def _choice(node: e.Node) -> e.If | e.Index | None:
    """The outermost conditional value or list read of a term."""
    if isinstance(node, (e.If, e.Index)):
        return node
    for child in () if isinstance(node, e.Sum) else node.children():  # what a sum binds has no value outside of it
        if isinstance(child, e.IntExpr) and (found := _choice(child)) is not None:
            return found
    return None


def unrolled(node: N) -> N:
    """The node with its sums written out: one term for each value of the bound variable.

    Sums over ranges that are not constant yet are left as they are; so are those in the bodies of ``any`` and ``all``.
    """
    if isinstance(node, e.Sum) and not contents.free(node.domain):
        terms = tuple(unrolled(with_value(node.body, node.var, value)) for value in domain_values(node.domain, {}))
        return e.Add(terms) if terms else e.Int(0)  # type: ignore[return-value]
    if isinstance(node, (e.Any, e.All, e.Sum)):
        return node
    return node.map(unrolled)


def with_value(body: N, var: str, value: int) -> N:
    """The body for one value of its bound variable."""
    try:
        return bind(body, {var: value})
    except (BadDivisor, OutsideList):  # perhaps in a branch that is not taken
        return replace(body, {e.Var(var): e.Int(value)})


def require_ranges(node: e.Node, sizes: Mapping[str, int]) -> None:
    """Raise LargeRange where ranges, or ranges inside each other, have too many values to be gone through.

    ``sizes`` are the names that have values; ranges that read others are not looked at.
    """
    _require(node, {name: (value, value) for name, value in sizes.items()}, 1)


def _require(node: e.Node, known: Mapping[str, Interval], around: int) -> None:
    if isinstance(node, (e.Any, e.All, e.Sum)):
        values = _values(node.domain, known)
        if values is not None:
            around *= max(1, values[1] - values[0])
            if around > MAX_COMBINATIONS:
                raise LargeRange(around)
            known = {**known, node.var: (values[0], max(values[0], values[1] - 1))}
    for child in node.children():
        _require(child, known, around)


def _values(domain: e.Domain, known: Mapping[str, Interval]) -> Interval | None:
    """Where the values of a range begin and end."""
    if not isinstance(domain, e.Range) or not contents.free(domain) <= known.keys():
        return None
    try:
        return interval(domain.low, known)[0], interval(domain.high, known)[1]
    except Unbounded:
        raise LargeRange(MAX_INT) from None
