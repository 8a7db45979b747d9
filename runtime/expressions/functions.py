"""The same pattern for PyTorch's FlexAttention, to compare with: its mask and score functions."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.expressions.real import FUNCTIONS
from attnspec.spec import bounds
from attnspec.spec import expr as e
from attnspec.spec import real as r
from attnspec.spec.bind import bind
from attnspec.spec.evaluate import Evaluator, table
from attnspec.spec.spec import Spec

Function = Callable[[Any, Any, Any, Any], Any]  # of b, h, q, k: integer tensors
Score = Callable[[Any, Any, Any, Any, Any], Any]  # of the score, b, h, q, k
At = Mapping[str, Any]
"""Where a function is called: the tensors b, h, q (the position of a query), k, and the score s."""


def why_not(spec: Spec) -> str | None:
    """Why FlexAttention cannot compute a pattern in one call; None if it can."""
    if spec.order is not None:
        return "cannot express a computed order"
    if spec.mixture:
        return "cannot express a mixture"
    if spec.sink is not None:
        return "cannot express a sink"
    return None


def mask_function(spec: Spec, sizes: Sizes, tables: Mapping[str, Tensor] | None = None) -> Function:
    """The pattern as a FlexAttention ``mask_mod`` over (batch, head, query row, key), for calls of these sizes.

    ``tables`` are the inputs as :func:`attnspec.runtime.prepare.inputs.prepare` makes them; they are captured.
    """
    found, first = _Functions(sizes, tables or {}).holds(bind(spec.pred, _known(sizes))), sizes.first
    if not isinstance(found, Later):
        return lambda b, h, q, k: (q >= 0) | (q < 0) if found else (q < 0) & (q >= 0)
    of = found.of
    return lambda b, h, q, k: of({"b": b, "h": h, "q": q + first if first else q, "k": k})


def score_function(spec: Spec, sizes: Sizes, tables: Mapping[str, Tensor]) -> Score | None:
    """The score lines as a FlexAttention ``score_mod``; None if there are none."""
    if spec.score == r.Score():
        return None
    of, first = _of(_Functions(sizes, tables).real(bind(spec.score, _known(sizes)))), sizes.first
    return lambda s, b, h, q, k: of({"s": s, "b": b, "h": h, "q": q + first if first else q, "k": k})


def real_function(expr: r.RealExpr, sizes: Sizes, tables: Mapping[str, Tensor]) -> Function:
    """A real expression without a score over tensors of (batch, head, query position, key)."""
    of = _of(_Functions(sizes, tables).real(bind(expr, _known(sizes))))
    return lambda b, h, q, k: of({"b": b, "h": h, "q": q, "k": k, "s": q * 0.0})


def exact_function(
    node: e.IntExpr | r.RealExpr, sizes: Sizes, tables: Mapping[str, Tensor], pairs: int
) -> Callable[[At], Tensor]:
    """An expression of a rotation: int64 or float64, and 0 where it has no value. ``pair`` may be among the tensors."""
    if isinstance(node, e.IntExpr):
        functions = _Functions(sizes, tables, pairs)
        whole = _of(functions.cast(*functions.integer(node)))
        return lambda at: torch.as_tensor(whole(at), device=at["s"].device).long()
    of = _of(_Exact(sizes, tables, pairs).real(node))
    return lambda at: torch.as_tensor(of(at), device=at["s"].device).double()


def _known(sizes: Sizes) -> dict[str, int]:
    return {name: value for name, value in sizes.parameters(0, 0).items() if name not in ("h", "b")}


def _operator(op: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda self, other: _later(op, self, other)


def _swapped(op: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda self, other: _later(op, other, self)


class Later:
    """A value that is computed from the tensors of a call.

    torch.compile and vmap trace that, so all that can be decided before is: what is left (``of``) is functions that
    call functions, without choices.
    """

    __array_ufunc__ = None  # numpy's booleans leave their operators to this

    def __init__(self, of: Callable[[At], Any]) -> None:
        self.of = of

    __add__ = __radd__ = _operator(operator.add)
    __mul__ = __rmul__ = _operator(operator.mul)
    __truediv__, __rtruediv__ = _operator(operator.truediv), _swapped(operator.truediv)
    __floordiv__, __rfloordiv__ = _operator(operator.floordiv), _swapped(operator.floordiv)
    __mod__, __rmod__ = _operator(operator.mod), _swapped(operator.mod)
    __pow__, __rpow__ = _operator(operator.pow), _swapped(operator.pow)
    __eq__, __ne__ = _operator(operator.eq), _operator(operator.ne)
    __lt__, __le__ = _operator(operator.lt), _operator(operator.le)
    __gt__, __ge__ = _operator(operator.gt), _operator(operator.ge)

    def __abs__(self) -> Later:
        return _later(torch.abs, self)

    def __invert__(self) -> Later:
        return _later(operator.invert, self)

    def __and__(self, other: Any) -> Any:
        return _later(operator.and_, self, other) if isinstance(other, Later) else self if other else np.False_

    def __or__(self, other: Any) -> Any:
        return _later(operator.or_, self, other) if isinstance(other, Later) else np.True_ if other else self

    def __xor__(self, other: Any) -> Any:
        return _later(operator.xor, self, other) if isinstance(other, Later) else ~self if other else self

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__


def _later(op: Callable[..., Any], *args: Any) -> Later:
    parts = [_of(arg) for arg in args]
    return Later(lambda at: op(*[part(at) for part in parts]))


def _named(name: str) -> Later:
    """What a call brings. (A lambda: TorchDynamo cannot trace an itemgetter.)"""
    return Later(lambda at: at[name])


def _of(value: Any) -> Callable[[At], Any]:
    return value.of if isinstance(value, Later) else lambda at: value


def _full(value: Any, like: str = "q") -> Later:
    """A value as a tensor, though it may be a number."""
    of = _of(value)
    return Later(lambda at: at[like] * 0 + of(at))


class _Functions(Evaluator):
    """Expressions as functions of tensors, over tables that they capture."""

    def __init__(self, sizes: Sizes, tables: Mapping[str, Tensor], pairs: int = 0) -> None:
        super().__init__(
            {table(name): t.bool() if t.dtype == torch.uint8 else t for name, t in tables.items()}
            | {name: _named(name) for name in ("b", "h", "q", "k", "pair")},
            _named("s"),
        )
        rows = (sizes.first, sizes.first + sizes.n_q - 1)
        self.ranges = {"b": (0, sizes.batch - 1), "h": (0, sizes.heads - 1), "q": rows, "k": (0, sizes.n - 1)}
        self.ranges["pair"] = (0, pairs - 1)
        self.members: dict[str, Tensor] = {}

    def where(self, cond: Any, then: Any, other: Any) -> Any:
        if not isinstance(cond, Later):
            return then if cond else other
        return _later(torch.where, cond, _full(then), _full(other))

    def minimum(self, a: Any, b: Any) -> Any:
        return _later(torch.minimum, _full(a), _full(b))

    def maximum(self, a: Any, b: Any) -> Any:
        return _later(torch.maximum, _full(a), _full(b))

    def every(self, value: Any) -> Any:
        return not isinstance(value, Later) and value

    def truth(self, value: Any) -> Any:
        return value if isinstance(value, Later) else np.bool_(value)

    def divisor(self, value: Any, known: Any) -> Any:
        return self.where(known, value, 1)

    def inside(self, index: e.IntExpr, at: Any, size: int) -> Any:
        """No test where bounds of the index show that it is inside: FlexAttention is to get the simplest function."""
        numbers = {name: (value, value) for name, value in self.env.items() if isinstance(value, int)}
        with suppress(bounds.Unbounded):
            low, high = bounds.interval(index, self.ranges | numbers)
            if low >= 0 and high < size:
                return np.True_
        return super().inside(index, at, size)

    def take(self, array: Tensor, places: list[Any]) -> Later:
        if not places:
            return Later(lambda at: array)
        parts = [_of(place) for place in places]
        return Later(
            lambda at: array.to(at["q"].device)[
                tuple(torch.as_tensor(part(at), device=at["q"].device) for part in parts)
            ]
        )

    def among(self, item: e.IntExpr, name: str, indices: tuple[e.IntExpr, ...]) -> Any:
        """Which values are in each list is written out as flags, before anything runs."""
        if name not in self.members:
            lists = self.env[table(name)].long()
            most = max(1, int(lists.max()) + 1 if lists.numel() else 0)
            flags = torch.zeros((*lists.shape[:-1], most + 1), dtype=torch.bool, device=lists.device)
            flags.scatter_(-1, torch.where(lists < 0, most, lists), True)
            self.members[name] = flags[..., :-1].contiguous()
        value, inside = self.read(self.members[name], (*indices, item))
        return value & inside

    def list_of(self, items: tuple[r.Reals, ...]) -> Tensor:
        return torch.tensor(items, dtype=torch.float32)

    def constant(self, value: float) -> float:
        return value

    def cast(self, value: Any, known: Any) -> Any:
        return self.where(known, value, 0)

    def apply(self, function: str, value: Any) -> Later:
        return _later(FUNCTIONS[function], _full(value, "s"))

    def choose(self, where: Any, node: r.Choose) -> Any:
        then, other = _full(self.real(node.then), "s"), _full(self.real(node.other), "s")
        return _later(torch.where, where, then, other) if isinstance(where, Later) else then if where else other


class _Exact(_Functions):
    """Reals in float64, for angles: with tensors ``s`` of that type among those of a call."""

    def list_of(self, items: tuple[r.Reals, ...]) -> Tensor:
        return torch.tensor(items, dtype=torch.float64)

    def cast(self, value: Any, known: Any) -> Any:
        found = super().cast(value, known)
        return _later(Tensor.double, found) if isinstance(found, Later) else float(found)
