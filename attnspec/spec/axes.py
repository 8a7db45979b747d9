"""Axes: the number that makes their sizes add up to the lengths of a call, and where each of them lies.

>>> from attnspec.check.check import check_text
>>> axes = check_text('''attention a {
...     axis token[n]
...     axis summary[(n + 3) // 4]
...     token -> token: causal
... }''').axes
>>> solve(axes, 13, 13)
10
>>> slices(axes, 10)["summary"]
(slice(10, 13, None), slice(10, 13, None))
>>> solve(axes, 16, 16)
Traceback (most recent call last):
    ...
ValueError: no n makes the axes add up to 16 keys: token[n], summary[(n + 3) // 4]; with n = 12 they are 15, with 13 17
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache

from attnspec.spec import contents, exact
from attnspec.spec import expr as e
from attnspec.spec.parts import Axis

_MOST = 2**40


def sizes(axes: Iterable[Axis], m: int) -> dict[str, int]:
    """The size of each axis."""
    return {axis.name: exact.integer(axis.size, {"m": m}) for axis in axes}


def slices(axes: Sequence[Axis], m: int) -> Mapping[str, tuple[slice | None, slice | None]]:
    """Where each axis lies among the queries and among the keys; None where it has none."""
    places: dict[str, tuple[slice | None, slice | None]] = {}
    row = column = 0
    for axis in axes:
        size = exact.integer(axis.size, {"m": m})
        places[axis.name] = (
            slice(row, row + size) if axis.queries else None,
            slice(column, column + size) if axis.keys else None,
        )
        row += size * axis.queries
        column += size * axis.keys
    return places


def lengths(axes: Sequence[Axis], m: int) -> tuple[int, int]:
    """How many keys and how many queries the axes have."""
    each = [(axis, exact.integer(axis.size, {"m": m})) for axis in axes]
    return sum(size for axis, size in each if axis.keys), sum(size for axis, size in each if axis.queries)


@lru_cache(maxsize=256)
def solve(axes: tuple[Axis, ...], n: int, n_q: int) -> int:
    """The number that ``n`` means beside axes: with it their sizes add up to n keys and n_q queries.

    Sizes never decrease with it (the checker sees to that), so it is found by bisection. ValueError if there is none,
    or if several would do.
    """
    first = _first(axes, (n, n_q))
    if first is not None and lengths(axes, first) == (n, n_q):
        if lengths(axes, first + 1) != (n, n_q):
            return first
        raise ValueError(
            f"{_named(axes)} add up to {n} keys and {n_q} queries for n = {first} and n = {first + 1} alike: "
            "an axis of n must tell which is meant"
        )
    raise ValueError(_none(axes, n, n_q))


def _first(axes: Sequence[Axis], wanted: tuple[int, int]) -> int | None:
    """The smallest number with which the axes are at least as long as wanted, and no size is negative."""

    def enough(m: int) -> bool:
        with suppress(exact.TooLarge):
            return (
                all(a >= b for a, b in zip(lengths(axes, m), wanted, strict=True)) and min(sizes(axes, m).values()) >= 0
            )
        return True

    low, high = 0, 1
    while not enough(high):
        low, high = high + 1, high * 2
        if high > _MOST:
            return None
    low = 0 if high == 1 else low
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def _none(axes: Sequence[Axis], n: int, n_q: int) -> str:
    both = n != n_q or any(axis.keys != axis.queries for axis in axes)
    wanted = f"{n} keys and {n_q} queries" if both else f"{n} keys"
    near = _first(axes, (n, 0 if both else n_q))
    near = _first(axes, (0, n_q)) if near is None else near
    title = f"no n makes the axes add up to {wanted}: {_named(axes)}"
    if near is None:
        return f"{title}; they never become that long"
    options = [m for m in (near - 1, near) if m >= 0 and min(sizes(axes, m).values()) >= 0]

    def said(m: int) -> str:
        keys, queries = lengths(axes, m)
        return f"{keys} keys and {queries} queries" if both else str(keys)

    first, *rest = options
    return f"{title}; with n = {first} they are {said(first)}" + "".join(f", with {m} {said(m)}" for m in rest)


def _named(axes: Sequence[Axis]) -> str:
    return ", ".join(f"{axis.name}[{axis.size}]" for axis in axes)


def grows(size: e.IntExpr) -> bool:
    """Whether a size is sure never to decrease with n: seen from its form.

    >>> from attnspec.spec.expr import Int, Mod, Mul, Var
    >>> grows(Mul(Int(2), Var("m"))), grows(Mul(Int(-2), Var("m"))), grows(Mod(Var("m"), Int(4)))
    (True, False, False)
    """
    return _direction(size) in (0, 1)


def _direction(node: e.IntExpr) -> int | None:
    """1 if an expression never decreases with n, -1 if it never increases, 0 if it is constant, None if unknown."""
    match node:
        case e.Int():
            return 0
        case e.Var(name):
            return 1 if name == "m" else 0
        case e.Add(args) | e.Min(args) | e.Max(args):
            directions = {_direction(a) for a in args} - {0}
            return 0 if not directions else directions.pop() if len(directions) == 1 else None
        case e.Mul(e.Int(value), other) | e.Mul(other, e.Int(value)):
            inner = _direction(other)
            return None if inner is None else inner * (1 if value > 0 else -1 if value < 0 else 0)
        case e.FloorDiv(left, _):
            return _direction(left)
    return None if "m" in contents.free(node) else 0
