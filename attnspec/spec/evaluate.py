"""What a core expression means: its value, computed with numpy on whole arrays of positions at once.

An environment maps the variables to integers or integer arrays, and ``table(name)`` of each input that is read to its
array; :func:`attnspec.spec.arrays.derive` makes those arrays, what is derived from inputs included.

Other kinds of arrays are subclasses of Evaluator, which say what they do differently: see
:mod:`attnspec.runtime.expressions`.

>>> from attnspec.spec.expr import Cmp, Int, Read, Var
>>> holds(Cmp("==", Read("doc", (Var("k"),)), Int(7)), {"k": np.arange(4), table("doc"): np.array([7, 5, 7])}).tolist()
[True, False, True, False]
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from copy import copy
from functools import reduce
from typing import Any, Self

import numpy as np

from attnspec.spec import expr as e
from attnspec.spec import real as r
from attnspec.spec.bind import BadDivisor, require_range

Array = Any  # numpy integers of some width, or Python integers: numpy's own rules mix them
Env = Mapping[str, Array]
Operation = Callable[..., Array]


def holds(pred: e.Pred, env: Env) -> Array:
    """Where a predicate holds, as a boolean array of the shape that the variables broadcast to.

    ``env`` maps every free variable to an integer or an integer array, and the tables of inputs to theirs. A comparison
    that reads outside a list or an input is false.
    """
    return Evaluator(env).holds(pred)


def value_of(node: e.IntExpr, env: Env) -> tuple[Array, Array]:
    """The value of an integer expression, and where it is defined (no read outside a list)."""
    return Evaluator(env).integer(node)


def value_real(node: r.RealExpr, env: Env, s: Array = None) -> Array:
    """The value of a real expression in float64; ``s`` is the score so far, where the expression reads it."""
    with np.errstate(all="ignore"):
        return Evaluator(env, s).real(node)


def table(name: str) -> str:
    """The key in an environment under which the array of an input stands: no variable is called so."""
    return f"{name}[]"


def domain_values(domain: e.Domain, env: Env) -> tuple[int, ...]:
    """The integers that a bound variable takes; the domain's own variables must be plain integers in ``env``.

    Raises LargeRange where they are too many.
    """
    if isinstance(domain, e.Range):
        low, high = (int(value_of(end, env)[0]) for end in (domain.low, domain.high))
        require_range(low, high)
        return tuple(range(low, high))
    items: e.Nested = domain.items
    for index in domain.indices:
        at = int(value_of(index, env)[0])
        if not isinstance(items, tuple) or not 0 <= at < len(items):
            return ()
        items = items[at]
    assert isinstance(items, tuple)
    return tuple(v for v in items if isinstance(v, int))


FUNCTIONS: Mapping[str, Operation] = {
    **{name: getattr(np, name) for name in ("tanh", "exp", "log", "sqrt", "abs")},
    "relu": lambda x: np.maximum(x, 0.0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))),
    "sigmoid": lambda x: np.exp(-np.logaddexp(0.0, -x)),
    "softplus": lambda x: np.logaddexp(0.0, x),
}
"""What each function of a real does to arrays."""


class Evaluator:
    """The values of expressions in one environment. What numpy computes stands at the end, to be overridden."""

    def __init__(self, env: Env, score: Array = None) -> None:
        self.env, self.score = env, score

    def within(self, env: Env, score: Array = None) -> Self:
        """The same in another environment."""
        other = copy(self)
        other.env, other.score = env, score
        return other

    def holds(self, pred: e.Pred) -> Array:
        """Where a predicate holds."""
        match pred:
            case e.Bool(value):
                return np.bool_(value)
            case e.Cmp(op, left, right):
                (a, a_ok), (b, b_ok) = self.integer(left), self.integer(right)
                return self.truth(e.COMPARE[op](a, b)) & a_ok & b_ok
            case e.And(args):
                result: Array = np.bool_(True)
                for arg in args:
                    result = result & self.holds(arg)
                    if self.every(~result):  # what is guarded by a false condition need not have a value
                        return result
                return result
            case e.Or(args):
                return reduce(operator.or_, map(self.holds, args), np.bool_(False))
            case e.Not(arg):
                return ~self.holds(arg)
            case e.Iff(left, right):
                return ~(self.holds(left) ^ self.holds(right))  # torch 2.13 cannot compile == between booleans
            case e.Any(var, domain, body):
                return reduce(operator.or_, (at.holds(body) for at in self._over(var, domain)), np.bool_(False))
            case e.All(var, domain, body):
                return reduce(operator.and_, (at.holds(body) for at in self._over(var, domain)), np.bool_(True))
            case e.Flag(name, indices):
                value, ok = self.read(self.env[table(name)], indices)
                return self.truth(value) & ok
            case e.Among(item, name, indices):
                return self.among(item, name, indices)
            case r.Order(op, x, y):
                return self.truth(e.COMPARE[op](self.real(x), self.real(y)))
        raise TypeError(f"not a predicate: {type(pred).__name__}")

    def integer(self, node: e.IntExpr) -> tuple[Array, Array]:
        """The value of an integer expression, and where it is defined."""
        match node:
            case e.Int(value):
                return value, np.bool_(True)
            case e.Var(name):
                return self.env[name], np.bool_(True)
            case e.Add(terms):
                return self._fold(operator.add, terms)
            case e.Mul(left, right):
                return self._fold(operator.mul, (left, right))
            case e.FloorDiv(left, right) | e.Mod(left, right):
                (value, ok), (divisor, known) = self.integer(left), self.integer(right)
                by = self.divisor(divisor, known)
                return (value // by if isinstance(node, e.FloorDiv) else value % by), ok & known
            case e.Pow(base, exponent):
                return self._fold(operator.pow, (base, exponent))
            case e.Min(args):
                return self._fold(self.minimum, args)
            case e.Max(args):
                return self._fold(self.maximum, args)
            case e.Abs(arg):
                value, ok = self.integer(arg)
                return abs(value), ok
            case e.If(cond, then, other):
                where = self.holds(cond)
                (a, a_ok), (b, b_ok) = self.integer(then), self.integer(other)
                return self.where(where, a, b), (a_ok | ~where) & (b_ok | where)
            case e.Sum(var, domain, body):
                parts = [at.integer(body) for at in self._over(var, domain)]
                return _joined(operator.add, [(0, np.bool_(True)), *parts])
            case e.Index(items, indices):
                return self._index(items, indices)
            case e.Read(name, indices):
                return self.read(self.env[table(name)], indices)
        raise TypeError(f"not an integer expression: {type(node).__name__}")

    def real(self, node: r.RealExpr) -> Array:
        """The value of a real expression; a read outside an input is 0."""
        match node:
            case r.Real(value) | r.Parameter(_, value):
                return self.constant(value)
            case r.Item(_, items, indices):
                return self.cast(*self.read(self.list_of(items), indices))
            case r.Score():
                if self.score is None:
                    raise ValueError("`s` has no value here")
                return self.score
            case r.Cast(arg):
                return self.cast(*self.integer(arg))
            case r.RealRead(name, indices):
                return self.cast(*self.read(self.env[table(name)], indices))
            case r.Total(terms):
                return reduce(operator.add, map(self.real, terms))
            case r.Product(left, right):
                return self.real(left) * self.real(right)
            case r.Quotient(left, right):
                return self.real(left) / self.real(right)
            case r.Apply(function, arg):
                return self.apply(function, self.real(arg))
            case r.Choose(cond):
                return self.choose(self.holds(cond), node)
        raise TypeError(f"not a real expression: {type(node).__name__}")

    def read(self, array: Array, indices: tuple[e.IntExpr, ...]) -> tuple[Array, Array]:
        """Entries of an input, and where the indices are inside it."""
        inside: Array = np.bool_(True)
        places: list[Array] = []
        for index, size in zip(indices, array.shape, strict=True):
            at, ok = self.integer(index)
            ok = self.inside(index, at, size) & ok
            inside = inside & ok
            places.append(self.where(ok, at, 0))
        if 0 in array.shape:
            return 0, inside & np.bool_(False)
        return self.take(array, places), inside

    def _over(self, var: str, domain: e.Domain) -> list[Self]:
        return [self.within({**self.env, var: v}, self.score) for v in domain_values(domain, self.env)]

    def _fold(self, op: Operation, args: tuple[e.IntExpr, ...]) -> tuple[Array, Array]:
        return _joined(op, [self.integer(arg) for arg in args])

    def _index(self, items: e.Nested, indices: tuple[e.IntExpr, ...]) -> tuple[Array, Array]:
        """Read a possibly ragged nested list: every entry is tried, those whose indices match are picked."""
        if isinstance(items, int):
            return items, np.bool_(True)
        (at, ok), rest = self.integer(indices[0]), indices[1:]
        value: Array = 0
        found: Array = np.bool_(False)
        for i, item in enumerate(items):
            inner, inner_ok = self._index(item, rest)
            here = self.truth(at == i) & inner_ok
            value, found = self.where(here, inner, value), found | here
        return value, found & ok

    where: Operation = staticmethod(np.where)
    minimum: Operation = staticmethod(np.minimum)
    maximum: Operation = staticmethod(np.maximum)
    every: Operation = staticmethod(np.all)
    """Whether something is known to be true everywhere."""

    def constant(self, value: float) -> Array:
        """A constant of a real expression."""
        return np.float64(value)

    def list_of(self, items: tuple[r.Reals, ...]) -> Array:
        """A list of reals as what :meth:`read` takes."""
        return np.array(items, dtype=np.float64)

    def truth(self, value: Array) -> Array:
        """What is true or false, as booleans (comparisons of Python's integers in arrays are objects)."""
        return np.asarray(value, dtype=bool)

    def divisor(self, value: Array, known: Array) -> Array:
        """A divisor, and 1 where it has no value. Raises BadDivisor where it is not positive."""
        if np.any((np.asarray(value) <= 0) & known):
            raise BadDivisor(int(np.min(value)))
        return value if np.all(known) else np.where(known, value, 1)

    def inside(self, index: e.IntExpr, at: Array, size: int) -> Array:
        """Where an index, whose value is ``at``, is inside a dimension."""
        return self.truth((at >= 0) & (at < size))

    def take(self, array: Array, places: list[Array]) -> Array:
        """The entries at places that are inside."""
        return array[tuple(np.asarray(place).astype(np.intp) for place in places)]

    def among(self, item: e.IntExpr, name: str, indices: tuple[e.IntExpr, ...]) -> Array:
        """Whether a value stands in the last dimension of an input; negative entries match nothing."""
        (value, ok), array = self.integer(item), self.env[table(name)]
        found: Array = np.bool_(False)
        for j in range(array.shape[-1]):
            entry, inside = self.read(array, (*indices, e.Int(j)))
            found = found | (self.truth((entry == value) & (entry >= 0)) & inside)
        return found & ok

    def cast(self, value: Array, known: Array) -> Array:
        """Integers, or entries of a float input, as reals; 0 where they have no value."""
        return np.where(known, value, 0).astype(np.float64)

    def apply(self, function: str, value: Array) -> Array:
        """One of the functions of a real."""
        return FUNCTIONS[function](value)

    def choose(self, where: Array, node: r.Choose) -> Array:
        """One of two reals."""
        return np.where(where, self.real(node.then), self.real(node.other))


def _joined(op: Operation, parts: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Several values as one, defined where all of them are."""
    return reduce(op, (value for value, _ in parts)), reduce(operator.and_, (known for _, known in parts))
