"""The real parameters of a score as arguments of its kernels, so that one kernel serves all their values.

What follows from parameters and literals alone (``log(base)``, ``1.0 / cap``) is worked out in float64 before a call,
as it would be for literals, and is an argument too. In kernels an argument is read like a float input, under a name
that begins with a dot; its gradient is never wanted.

>>> from attnspec.spec.expr import Var
>>> cap, slopes = r.Parameter("cap", 50.0), r.Item("slopes", (0.5, 0.25), (Var("h"),))
>>> found = arguments(r.Total((r.Quotient(r.Score(), cap), r.Product(r.Apply("exp", cap), slopes))))
>>> print(found.lifted)
s * c0 + c1 * slopes[h]
>>> [(one.name, one.text, one.shape) for one in found.all]
[('.c0', '1.0 / cap', ()), ('.c1', 'exp(cap)', ()), ('.slopes', 'slopes', (2,))]
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from attnspec.spec import contents, make
from attnspec.spec import expr as e
from attnspec.spec import real as r
from attnspec.spec.derive import Leaf, derivatives
from attnspec.spec.spec import Spec

_LARGEST = 3.4028234663852886e38
"""Of float32."""


@dataclass(frozen=True)
class Argument:
    """An argument: its name in kernels, how it follows from parameters, and its value: a real or nested tuples."""

    name: str
    text: str
    shape: tuple[int, ...]
    value: r.Reals

    def __str__(self) -> str:
        name, sizes = self.name.removeprefix("."), "".join(f"[{size}]" for size in self.shape)
        return f"{name}{sizes}" if self.text == name else f"{name}{sizes} = {self.text}"


@dataclass(frozen=True)
class Arguments:
    """A score over arguments, its derivatives by the score and by the entries that it reads, and the arguments.

    The first two depend on the values of parameters in their form only (which exponents are whole, say), so that
    scores that are equal here have one kernel.
    """

    lifted: r.RealExpr
    slopes: Mapping[Leaf, r.RealExpr]
    all: tuple[Argument, ...]


def by_name(spec: Spec) -> Spec:
    """What kernels compute of a spec: over arguments, and without what stands around them (rotations, scale)."""
    sink = None if spec.sink is None else arguments(spec.sink).lifted
    score = arguments(spec.score).lifted
    return replace(spec, params=(), score=score, sink=sink, scale=None, rotations=())


def comment(spec: Spec) -> str:
    """The same as text, with how arguments follow from parameters."""
    found = arguments(spec.score).all
    return "\n".join([str(by_name(spec)), *(f"argument {one}" for one in found)])


def computed(spec: Spec) -> str:
    """All of a spec that its kernels depend on, as text: two with the same can share theirs."""
    score = arguments(spec.score)
    branches = [(branch.pred, branch.times) for branch in spec.branches]
    more = () if spec.softmax_only else spec.weighings
    parts = (
        *more,
        spec.name,
        spec.align,
        spec.axes,
        spec.inputs,
        spec.order,
        branches,
        spec.detached,
        spec.sink is None,
    )
    return repr((*parts, score.lifted, [(one.text, one.shape) for one in score.all]))


def beyond_kernels(spec: Spec) -> float | None:
    """A number of scores, sink or scale that float32, in which kernels compute, has not; None where there is none."""
    reals = [] if spec.scale is None else [spec.scale]
    for found in (arguments(root) for root in (spec.score, spec.sink) if root is not None):
        reals += [node.value for node in contents.walk(found.lifted) if isinstance(node, r.Real)]
        reals += [value for one in found.all for value in _flat(one.value)]
    return next((value for value in reals if abs(value) > _LARGEST), None)


def _flat(value: r.Reals) -> Iterator[float]:
    if isinstance(value, tuple):
        for part in value:
            yield from _flat(part)
    else:
        yield value


def is_argument(name: str) -> bool:
    """Whether what is read under a name is an argument."""
    return name.startswith(".")


@functools.lru_cache(maxsize=256)
def arguments(real: r.RealExpr) -> Arguments:
    """The arguments of a score."""
    real = _with_literals(real)
    lift = _Lift({part.name for part in contents.walk(real) if isinstance(part, r.Parameter | r.Item)})
    lifted = lift.real(real)
    slopes = {leaf: lift.real(slope) for leaf, slope in derivatives(real).items()}
    return Arguments(lifted, slopes, tuple(lift.found.values()))


def _with_literals(node: e.Node) -> Any:
    """An expression with its whole literals as reals, and with the functions that kernels have."""
    if isinstance(node, r.Cast):
        return r.Real(float(node.arg.value)) if isinstance(node.arg, e.Int) else node
    if isinstance(node, r.Apply) and node.function in _IN_OTHERS:
        return _with_literals(_IN_OTHERS[node.function](node.arg))
    return node.map(_with_literals) if isinstance(node, r.RealExpr) else node


def _positive(x: r.RealExpr, then: r.RealExpr, other: r.RealExpr) -> r.RealExpr:
    return r.Choose(r.Order(">", x, r.Real(0.0)), then, other)


def _log_of_one_plus_exp(x: r.RealExpr) -> r.RealExpr:
    small = r.Apply("exp", r.Product(r.Real(-1.0), r.Apply("abs", x)))
    return r.Total((_positive(x, x, r.Real(0.0)), r.Apply("log", r.Total((r.Real(1.0), small)))))


_HALF = r.Real(0.5)
_IN_OTHERS: Mapping[str, Callable[[r.RealExpr], r.RealExpr]] = {
    "relu": lambda x: _positive(x, x, r.Real(0.0)),
    "elu": lambda x: _positive(x, x, r.Total((r.Apply("exp", x), r.Real(-1.0)))),
    "sigmoid": lambda x: r.Total((_HALF, r.Product(_HALF, r.Apply("tanh", r.Product(_HALF, x))))),
    "softplus": _log_of_one_plus_exp,
}
"""Functions that kernels compute by others."""


class _Lift:
    """Replaces what follows from parameters by reads of arguments."""

    def __init__(self, taken: set[str]) -> None:
        self.taken = taken
        self.found: dict[e.Node, Argument] = {}

    def real(self, node: r.RealExpr) -> r.RealExpr:
        """A real over arguments."""
        match node:
            case r.Item(name, items, indices) if not contents.settled(node):
                key = r.Item(name, items, ())
                text = name or "a list"
                return r.RealRead(self._name(key, name, text, items), tuple(map(self._node, indices)))  # type: ignore[arg-type]
            case r.Quotient(left, right) if not contents.settled(left) and _parametric(right) and _inverts(right):
                return self.real(r.Product(left, r.Quotient(r.Real(1.0), right)))  # as for a literal
        if _parametric(node) and contents.settled(node):
            value = make.constant(node)
            if value is not None:
                name = node.name if isinstance(node, r.Parameter) else ""
                return r.RealRead(self._name(node, name, str(node), value), ())
        return node.map(self._node)

    def _node(self, node: e.Node) -> e.Node:
        return self.real(node) if isinstance(node, r.RealExpr) else node.map(self._node)

    def _name(self, key: e.Node, wanted: str, text: str, value: r.Reals) -> str:
        if key not in self.found:
            used = {one.name for one in self.found.values()}
            name = f".{wanted}"
            if not wanted or name in used:
                free = (f".c{n}" for n in range(len(self.found) + len(self.taken) + 1))
                name = next(name for name in free if name not in used and name[1:] not in self.taken)
            self.found[key] = Argument(name, text, r.shape_of(value), value)
        return self.found[key].name


def _parametric(node: e.Node) -> bool:
    return any(isinstance(part, r.Parameter | r.Item) for part in contents.walk(node))


def _inverts(node: r.RealExpr) -> bool:
    """Whether a division may be a multiplication."""
    value = make.constant(node) if contents.settled(node) else None
    return value is not None and has_reciprocal(value)


def has_reciprocal(value: float) -> bool:
    """Whether a division may be a multiplication: the reciprocal is a normal float."""
    return 1e-37 < abs(value) < 1e37
