"""The positions by which vectors turn: those of the rows, or what a spec says stands in their place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.device import capturing
from attnspec.runtime.core.visible import everything
from attnspec.runtime.prepare.formula import value
from attnspec.spec import expr as e
from attnspec.spec.real import RealExpr


def places(
    expr: e.IntExpr | RealExpr,
    side: str,
    sizes: Sizes,
    inputs: Mapping[str, Tensor],
    pairs: int = 0,
    device: torch.device | None = None,
) -> Tensor | range:
    """The positions by which the vectors of a side turn: a range where nothing changed them, else a tensor.

    (batch or 1, heads or 1, n, pairs or 1), int64, or float64 where they are reals; of float inputs differentiable. A
    position that has no value (a read outside an input) is 0. Where ``device`` is not the CPU nothing waits for it.
    """
    held = sizes.held
    start, count = (held.q_start, held.rows) if side == "q" else (held.k_start, held.keys)
    rows = range(start, start + count)
    if expr == e.Var(side):
        return rows
    eager = device is None or device.type == "cpu"
    found = value(expr, sizes, inputs, {side: rows, "pair": range(pairs)}, device=device, eager=eager)
    return found.expand(*found.shape[:2], len(rows), found.shape[3])


def centre_of(*positions: Tensor | range) -> float:
    """The middle of all positions; only of those that are ranges where looking at tensors would wait for a device."""
    ends = [end for at in positions for end in ends_of(at)]
    return (min(ends) + max(ends)) / 2 if ends else 0.0


def ends_of(positions: Tensor | range) -> list[float]:
    """The least and the largest position, over all that vmap maps; none where they cannot be looked at."""
    if isinstance(positions, range):
        return [positions[0], positions[-1]] if len(positions) else []
    if torch.compiler.is_compiling() or capturing():
        return []
    positions = everything(positions)
    if type(positions) is not Tensor or positions.device.type == "meta" or not positions.numel():
        return []
    return [float(end) for end in torch.aminmax(positions.detach())]
