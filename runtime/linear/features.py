"""What ``linear`` lines map queries and keys to, in operations of tensors that can be differentiated.

>>> from attnspec.check.check import check_text
>>> spec = check_text("attention a { linear [softmax(x), elu(x) + 1] }")
>>> x = torch.tensor([0.0, 0.0]).view(1, 1, 1, 2)
>>> mapped(spec, "k", x, {}, Sizes(1, 1), None).values.flatten().tolist()
[0.5, 0.5, 1.0, 1.0]
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.visible import visible
from attnspec.runtime.expressions.real import Differentiable, tables
from attnspec.runtime.linear.favor import favor, projection
from attnspec.spec import expr as e
from attnspec.spec import feature as f
from attnspec.spec import real as r
from attnspec.spec.evaluate import table
from attnspec.spec.spec import Spec


@dataclass(frozen=True, eq=False)
class Mapped:
    """Features (batch, heads, rows, features), and what a running maximum adds to the logarithms of steps.

    ``gates`` are None where there is none, else (batch, heads, n), or (batch, heads, n, features) where features
    differ in it; ``last`` (batch, heads) is that maximum at the end. With ``logs`` the values are logarithms of
    features.
    """

    values: Tensor
    gates: Tensor | None = None
    last: Tensor | None = None
    logs: bool = False


def mapped(
    spec: Spec,
    side: str,
    x: Tensor,
    inputs: Mapping[str, Tensor],
    sizes: Sizes,
    given: Tensor | None,
    since: Tensor | None = None,
) -> Mapped:
    """The features of queries (``side`` is ``"q"``) or keys, (batch, heads, rows, dim), after rotations, by query head.

    Computed in the dtype of x, to which float inputs are taken. ``inputs`` are those that the line reads, as
    :func:`attnspec.runtime.prepare.inputs.prepare` makes them; ``given`` is the projection of the call, for ``favor``,
    and ``since`` (batch, heads) the running maximum before its first key.
    A feature that is the same number for all vectors is one feature. Raises CallError where the projection does not
    fit.
    """
    found = _parts(spec, side, x, inputs, sizes, given, since=since)
    return found[0] if len(found) == 1 else _joined(found)


def apart(
    spec: Spec, x: Tensor, inputs: Mapping[str, Tensor], sizes: Sizes, given: Tensor | None, features: int
) -> list[Mapped]:
    """The features of keys, map by map, as logarithms where they are exponentials; ``features`` are those of all."""
    found = _parts(spec, "k", x, inputs, sizes, given, logs=True)
    if len(found) > 1:
        return found
    return [replace(found[0], values=found[0].values.expand(*x.shape[:-1], features))]


def _parts(
    spec: Spec,
    side: str,
    x: Tensor,
    inputs: Mapping[str, Tensor],
    sizes: Sizes,
    given: Tensor | None,
    logs: bool = False,
    since: Tensor | None = None,
) -> list[Mapped]:
    feature = spec.weights.q if side == "q" else spec.weights.k
    assert feature is not None
    floats = {table(name): t.to(x.dtype) for name, t in inputs.items() if t.is_floating_point()}
    env = {**axes(sizes, 4), **tables(inputs), **floats, f.CHANNEL.name: np.arange(x.shape[-1])}

    def of(part: r.RealExpr, x: Tensor) -> Mapped:
        own = logs and f.is_exponential(part)
        if isinstance(part, f.Favor):
            rows = projection(part, x.shape[-1], given, x.device, spec.name)
            return Mapped(*favor(part, _entries(part.arg, env, x), rows, side == "k", own, since), own)
        if own:
            assert isinstance(part, r.Apply)
            return Mapped(_entries(part.arg, env, x), logs=True)
        return Mapped(_entries(part, env, x))

    # Of what there are features whatever the map; favor looks for the largest entry among all vectors.
    others = (0.0 if isinstance(part, f.Favor) else 1.0 for part in f.parts(feature))
    return [
        _learned(functools.partial(of, part), x, other) for part, other in zip(f.parts(feature), others, strict=True)
    ]


def _learned(of: Callable[[Tensor], Mapped], x: Tensor, other: float) -> Mapped:
    """What a map makes of vectors. Those of which it makes no numbers have no gradient: they are mapped as another.

    Keys that no row sees may be anything: the gradient of what they are mapped to is zero, and zero times the slope of
    the map there is no number.
    """
    found = of(x)
    if not found.values.requires_grad:
        return found
    values = found.values.detach()
    if visible(values) and bool(values.sum().isfinite()):
        return found
    wrong = (values.isnan() | (values == torch.inf)).any(-1, keepdim=True)
    if visible(values) and not bool(wrong.any()):
        return found
    made = of(x.masked_fill(wrong, other))
    return replace(made, values=torch.where(wrong, values, made.values))


def together(spec: Spec, of_q: int, of_k: int) -> int:
    """The number of features of both sides; one feature stands for as many. Raises CallError where they do not fit."""
    if len({of_q, of_k} - {1}) > 1:
        raise CallError(f"{spec.name}: `linear q:` gives {of_q} features and `linear k:` {of_k}")
    return max(of_q, of_k)


def axes(sizes: Sizes, dims: int, heads: int | None = None) -> dict[str, Any]:
    """The parameters of a call, with the numbers of batch entries and heads as arrays along the first of dimensions.

    ``heads``: how many tensors have, where those that share keys do not differ: the call's stay its parameter.
    """
    behind = (1,) * (dims - 2)
    h = np.arange(sizes.heads if heads is None else heads)
    whole = {"b": np.arange(sizes.batch).reshape(-1, 1, *behind), "h": h.reshape(-1, *behind)}
    return {**sizes.parameters(0, 0), **whole}


def _entries(node: r.RealExpr, env: Mapping[str, Any], x: Tensor) -> Tensor:
    """An expression at each entry of vectors; one entry where it is the same for all."""
    evaluator = _Features(env, x)
    evaluator.dtype, evaluator.device, evaluator.strict = x.dtype, x.device, False
    value: Tensor = evaluator.real(node)
    return value.expand(*x.shape[:-1], 1 if f.is_constant(node) else x.shape[-1])


_ONES = (r.Real(1.0), r.Cast(e.Int(1)))


class _Features(Differentiable):
    """Expressions over vectors, with functions of whole ones."""

    def real(self, node: r.RealExpr) -> Tensor:
        match node:
            case f.Whole("softmax", arg):
                return self._whole(arg).softmax(-1)
            case f.Whole("unit", arg):
                return torch.nn.functional.normalize(self._whole(arg), dim=-1)
            case r.Total((r.Apply("elu", arg), one)) | r.Total((one, r.Apply("elu", arg))) if one in _ONES:
                x = self.real(arg)  # elu(x) + 1 loses what is small; here one of the two is exact
                return torch.relu(x) + torch.exp(x.clamp(max=0.0))
        return super().real(node)  # type: ignore[no-any-return]

    def _whole(self, arg: r.RealExpr) -> Tensor:
        return self.real(arg).expand(self.score.shape)


def _joined(parts: list[Mapped]) -> Mapped:
    values = torch.cat([part.values for part in parts], -1)
    if all(part.gates is None for part in parts):
        return Mapped(values)
    gates = []
    for part in parts:
        own = part.values.new_zeros(part.values.shape[:-1]) if part.gates is None else part.gates
        gates.append(own[..., None].expand(part.values.shape))
    return Mapped(values, torch.cat(gates, -1))
