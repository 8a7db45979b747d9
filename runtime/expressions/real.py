"""What a score or sink expression means, in torch: differentiable in the score and in the float inputs.

>>> from attnspec.spec.expr import Add, Int, Mul, Var
>>> from attnspec.spec.real import Cast, Product, Real, Score, Total
>>> alibi = Total((Score(), Product(Real(-0.5), Cast(Add((Var("q"), Mul(Int(-1), Var("k"))))))))
>>> real(alibi, {"q": np.array([[3]]), "k": np.array([[0, 1, 2, 3]])}, {}, score=torch.ones(1, 4))
tensor([[-0.5000,  0.0000,  0.5000,  1.0000]])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnspec.runtime.core.visible import array
from attnspec.spec import contents
from attnspec.spec import real as r
from attnspec.spec.derive import SIGN
from attnspec.spec.evaluate import Env, Evaluator, table

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "abs": torch.abs,
}
FUNCTIONS |= {
    SIGN: torch.sign,
    "relu": torch.relu,
    "elu": torch.nn.functional.elu,
    "sigmoid": torch.sigmoid,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
}
"""What each function of a real does to tensors, and that of derivatives."""


class Outside(Exception):
    """A read outside an input, where that has no meaning."""


def real(
    node: r.RealExpr,
    env: Env,
    floats: Mapping[str, Tensor],
    score: Tensor | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    strict: bool = False,
) -> Tensor:
    """The value of a real expression, of the shape that its variables broadcast to.

    ``env`` gives the integer variables as integers or integer arrays, as in :func:`attnspec.spec.evaluate.holds`;
    ``floats`` the float inputs; ``score`` is the value of ``s``. Computed in ``dtype``, by default that of the score,
    on the device of the score or of float inputs, else on ``device``. Integers are exact up to 2**53 before they become
    reals. A read outside a float input, or at an index that has no value, is 0; so is the gradient there. It
    raises Outside with ``strict``.
    """
    if dtype is None:
        dtype = torch.get_default_dtype() if score is None else score.dtype
    score = None if score is None else score.to(dtype)
    evaluator = Differentiable({**env, **{table(name): t for name, t in floats.items()}}, score)
    evaluator.dtype, evaluator.device, evaluator.strict = dtype, _device(floats, score) or device, strict
    return evaluator.real(node)  # type: ignore[no-any-return]


class Differentiable(Evaluator):
    """Integers and predicates in numpy, reals in torch."""

    dtype: torch.dtype
    device: torch.device | None
    strict: bool

    def constant(self, value: float) -> Tensor:
        """A constant."""
        return torch.full((), value, dtype=self.dtype, device=self.device)

    def take(self, array: Any, places: list[Any]) -> Any:
        """Entries, those of float inputs with their gradients."""
        if not isinstance(array, Tensor):
            return super().take(array, places)
        if not array.is_floating_point():
            return super().take(array.numpy(force=True), places)
        return array[tuple(torch.from_numpy(np.asarray(place, np.int64)).to(array.device) for place in places)]

    def cast(self, value: Any, known: Any) -> Any:
        """Integers and entries as reals."""
        if self.strict and not np.all(known):
            raise Outside
        if not isinstance(value, Tensor):
            return torch.from_numpy(super().cast(value, known)).to(device=self.device, dtype=self.dtype)
        if not np.all(known):
            value = torch.where(torch.from_numpy(np.array(known)).to(value.device), value, value.new_zeros(()))
        return value.to(self.dtype)

    def truth(self, value: Any) -> Any:
        """Truth, as numpy has it."""
        return super().truth(value.numpy(force=True) if isinstance(value, Tensor) else value)

    def apply(self, function: str, value: Tensor) -> Tensor:
        """One of FUNCTIONS."""
        return FUNCTIONS[function](value)

    def choose(self, where: Any, node: r.Choose) -> Any:
        """Each side is worked out only where it is chosen: elsewhere it may have no value, and no gradient either."""
        where = np.asarray(where)
        if where.all() or not where.any():
            return self.real(node.then if where.all() else node.other)
        score, env = self.score, self.env
        arrays = {name: env[name] for name in contents.free(node) if np.ndim(env[name])}
        shape = np.broadcast_shapes(where.shape, *map(np.shape, arrays.values()), () if score is None else score.shape)
        where = np.broadcast_to(where, shape)
        result = torch.empty(shape, dtype=self.dtype, device=self.device)
        for chosen, side in ((where, node.then), (~where, node.other)):
            at = torch.from_numpy(chosen.copy()).to(result.device)
            there = {**env, **{name: np.broadcast_to(array, shape)[chosen] for name, array in arrays.items()}}
            picked = self.within(there, None if score is None else score.expand(shape)[at]).real(side)
            result = result.masked_scatter(at, picked.expand(int(chosen.sum())))
        return result


def tables(inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """The integer and boolean inputs, for the expressions that read them."""
    return {table(name): array(t) for name, t in inputs.items() if not t.is_floating_point()}


def _device(floats: Mapping[str, Tensor], score: Tensor | None) -> torch.device | None:
    if score is not None:
        return score.device
    return next((t.device for t in floats.values()), None)
