"""What a score or sink expression means, in torch: differentiable in the score and in the float inputs (DESIGN 2.9).

>>> from attnspec.spec.expr import Add, Int, Mul, Var
>>> from attnspec.spec.real import Cast, Product, Real, Score, Total
>>> alibi = Total((Score(), Product(Real(-0.5), Cast(Add((Var("q"), Mul(Int(-1), Var("k"))))))))
>>> real(alibi, {"q": np.array([[3]]), "k": np.array([[0, 1, 2, 3]])}, {}, score=torch.ones(1, 4))
tensor([[-0.5000,  0.0000,  0.5000,  1.0000]])
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec import real as r
from attnspec.spec.evaluate import Env, holds, value_of

FUNCTIONS = {"tanh": torch.tanh, "exp": torch.exp, "log": torch.log, "sqrt": torch.sqrt, "abs": torch.abs}
"""What each function of a real does to tensors."""


def real(
    node: r.RealExpr,
    env: Env,
    floats: Mapping[str, Tensor],
    score: Tensor | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """The value of a real expression, of the shape that its variables broadcast to.

    ``env`` gives the integer variables as integers or integer arrays, as in :func:`attnspec.spec.evaluate.holds`;
    ``floats`` the float inputs; ``score`` is the value of ``s``. Computed in ``dtype``, by default that of the score,
    on the device of the score or of float inputs, else on ``device``. Integers are exact up to 2**53 before they become
    reals. A read outside a float input, or at an index that has no value, is 0; so is the gradient there.
    """
    if dtype is None:
        dtype = torch.get_default_dtype() if score is None else score.dtype
    device = _device(floats, score) or device

    def value(node: r.RealExpr, env: Env, score: Tensor | None) -> Tensor:
        match node:
            case r.Real(number):
                return torch.full((), number, dtype=dtype, device=device)
            case r.Score():
                if score is None:
                    raise ValueError("`s` has no value here")
                return score.to(dtype)
            case r.Cast(arg):
                array, known = value_of(arg, env)
                exact = np.where(known, array, 0).astype(np.float64)
                return torch.from_numpy(exact).to(device=device, dtype=dtype)
            case r.RealRead(name, indices):
                return _read(floats[name].to(dtype), indices, env)
            case r.Total(terms):
                total = value(terms[0], env, score)
                for term in terms[1:]:
                    total = total + value(term, env, score)
                return total
            case r.Product(left, right):
                return value(left, env, score) * value(right, env, score)
            case r.Quotient(left, right):
                return value(left, env, score) / value(right, env, score)
            case r.Apply(function, arg):
                return FUNCTIONS[function](value(arg, env, score))
            case r.Choose(cond, then, other):
                return choose(node, np.asarray(holds(cond, env), dtype=bool), then, other, env, score)
        raise TypeError(f"not a real expression: {type(node).__name__}")

    def choose(
        node: r.RealExpr, where: NDArray[np.bool_], then: r.RealExpr, other: r.RealExpr, env: Env, score: Tensor | None
    ) -> Tensor:
        """Each side is worked out only where it is chosen: elsewhere it may have no value, and no gradient either."""
        if where.all():
            return value(then, env, score)
        if not where.any():
            return value(other, env, score)
        arrays = {name: env[name] for name in contents.free(node) if np.ndim(env[name])}
        shape = np.broadcast_shapes(where.shape, *map(np.shape, arrays.values()), () if score is None else score.shape)
        where = np.broadcast_to(where, shape)
        result = torch.empty(shape, dtype=dtype, device=device)
        for chosen, side in ((where, then), (~where, other)):
            at = torch.from_numpy(chosen.copy()).to(result.device)
            there = {**env, **{name: np.broadcast_to(array, shape)[chosen] for name, array in arrays.items()}}
            picked = value(side, there, None if score is None else score.expand(shape)[at])
            result = result.masked_scatter(at, picked.expand(int(chosen.sum())))
        return result

    return value(node, env, score)


def _read(table: Tensor, indices: tuple[e.IntExpr, ...], env: Env) -> Tensor:
    """Entries of a float input; 0 outside it."""
    places: list[Tensor] = []
    inside = np.asarray(True)
    for index, size in zip(indices, table.shape, strict=True):
        at, known = value_of(index, env)
        fits = np.asarray((at >= 0) & (at < size) & known)
        inside = inside & fits
        places.append(torch.from_numpy(np.where(fits, at, 0).astype(np.int64)).to(table.device))
    if not places:
        return table
    if not table.numel():
        return table.new_zeros(np.broadcast_shapes(inside.shape, *(tuple(p.shape) for p in places)))
    values = table[tuple(places)]
    if inside.all():
        return values
    return torch.where(torch.from_numpy(inside.copy()).to(table.device), values, values.new_zeros(()))


def _device(floats: Mapping[str, Tensor], score: Tensor | None) -> torch.device | None:
    if score is not None:
        return score.device
    return next((t.device for t in floats.values()), None)
