"""What decays between a key and a query: sums of the logarithms of steps, as ``decay`` lines say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.device import capturing
from attnspec.runtime.core.visible import everything
from attnspec.runtime.expressions.real import real, tables
from attnspec.runtime.linear.features import axes
from attnspec.spec import expr as e
from attnspec.spec.feature import CHANNEL
from attnspec.spec.real import RealExpr, RealRead
from attnspec.spec.spec import Spec
from attnspec.spec.weights import LOWEST_STEP, STEP


@dataclass(frozen=True, eq=False)
class Steps:
    """Sums of the logarithms of all steps up to each position, (batch, heads, positions), float64.

    ``first`` is the first of the positions. By channel there is one dimension more, (.., features).
    """

    sums: Tensor
    first: int

    @property
    def by_channel(self) -> bool:
        """Whether features decay each by itself."""
        return self.sums.dim() == 4

    def between(self, q: NDArray[np.int64], k: NDArray[np.int64], channel: int | None = None) -> Tensor:
        """The sums over the steps after the earlier of two positions up to the later one, (batch, heads, q, k)."""
        sums = self.sums if channel is None or not self.by_channel else self.sums[..., channel]
        later = torch.from_numpy(q[:, None] >= k[None, :]).to(sums.device)
        at_q, at_k = (sums[..., torch.from_numpy(at - self.first).to(sums.device)] for at in (q, k))
        difference = at_q[..., :, None] - at_k[..., None, :]
        return torch.where(later, difference, -difference)


def steps(
    spec: Spec,
    inputs: Mapping[str, Tensor],
    sizes: Sizes,
    device: torch.device,
    features: int = 1,
    more: Tensor | None = None,
) -> Steps | None:
    """The steps of a call, or None where nothing decays: sums of their :func:`logarithms`."""
    first, end = min(0, sizes.first), max(sizes.n, sizes.first + sizes.n_q)
    logs = logarithms(spec, inputs, sizes, np.arange(first, end), device, features, more)
    return None if logs is None else Steps(logs.cumsum(2), first)


def logarithms(
    spec: Spec,
    inputs: Mapping[str, Tensor],
    sizes: Sizes,
    positions: NDArray[np.int64],
    device: torch.device,
    features: int = 1,
    more: Tensor | None = None,
) -> Tensor | None:
    """The logarithms of the steps at positions, (batch, heads, positions) or by channel (.., features), float64.

    None where nothing decays. ``more`` are gates of keys, (batch, heads, n) or (batch, heads, n, features), that are
    added to the line's. Raises CallError where a step is above 0 or no number.
    """
    line = spec.weights.decay
    if line is None and more is None:
        return None
    by_channel = spec.weights.by_channel or (more is not None and more.dim() == 4)
    shape = (sizes.batch, sizes.heads, len(positions), *([features] if by_channel else []))
    logs = torch.zeros((), dtype=torch.float64, device=device)
    if line is not None:
        found = _entries(line, inputs, shape, int(positions[0]) if len(positions) else 0)
        own = _line(spec, inputs, sizes, device, positions, features, by_channel) if found is None else found
        _check(spec, own)
        logs = own.double()
    if more is not None:
        wide = more if more.dim() == 4 or not by_channel else more[..., None]
        before = -int(positions[0]) if len(positions) else 0
        behind = len(positions) - before - sizes.n
        logs = logs + torch.nn.functional.pad(wide, (*([0, 0] if by_channel else []), before, behind))
    return logs.clamp(min=LOWEST_STEP).expand(shape)


def by_channel(
    spec: Spec, inputs: Mapping[str, Tensor], sizes: Sizes, features: int, more: Tensor | None
) -> tuple[int, Tensor]:
    """The first position, and the logarithms of the steps of each feature as kernels take them.

    These are (batch, heads, positions, features), float32; they may be below LOWEST_STEP. The rest is as for
    :func:`logarithms`.
    """
    first, end = min(0, sizes.first), max(sizes.n, sizes.first + sizes.n_q)
    line, shape = spec.weights.decay, (sizes.batch, sizes.heads, end - first, features)
    found = None if more is not None else _entries(line, inputs, shape, first)
    if found is not None:
        _check(spec, found)
        return first, found.expand(shape)
    logs = logarithms(spec, inputs, sizes, np.arange(first, end), torch.device("cpu"), features, more)
    assert logs is not None
    return first, logs.float()


def _entries(line: RealExpr | None, inputs: Mapping[str, Tensor], shape: tuple[int, ...], first: int) -> Tensor | None:
    """A line that is an entry of an input, as a view of that; None where it is more, or that is not whole."""
    axes = (e.Var("b"), e.Var("h"), STEP, CHANNEL)[: len(shape)]
    if not isinstance(line, RealRead) or line.indices != tuple(axis for axis in axes if axis in line.indices):
        return None
    found = inputs[line.name]
    for at, axis in enumerate(axes):
        if axis not in line.indices:
            found = found.unsqueeze(at)
        elif axis == STEP:
            before = max(-first, 0)
            found = found[:, :, max(first, 0) :][:, :, : shape[at] - before]
            behind = shape[at] - before - found.shape[at]
            if before or behind:  # past the input steps are 0
                found = torch.nn.functional.pad(found, (0, 0) * (found.dim() - 1 - at) + (before, behind))
        elif found.shape[at] < shape[at]:
            return None
        else:
            found = found.narrow(at, 0, shape[at])
    return found


def _check(spec: Spec, logs: Tensor) -> None:
    if capturing() or not logs.numel():
        return
    seen = everything(logs.detach())
    largest = float(seen.max())
    if math.isnan(largest):
        at = seen.isnan().nonzero()[0].tolist()
        raise CallError(
            f"{spec.name}: step {tuple(at)} (batch, head, position ..) of `decay {spec.weights.decay}` is no number: "
            "it would make none of all later sums; padding does not decay where the line says so: "
            "`decay if pad[b, t] then 0.0 else ..`"
        )
    if largest > 0:
        raise CallError(
            f"{spec.name}: a step of `decay {spec.weights.decay}` is {largest:g}; it is the logarithm of a factor of "
            "at most 1, so it must be 0 or negative"
        )


def _line(
    spec: Spec,
    inputs: Mapping[str, Tensor],
    sizes: Sizes,
    device: torch.device,
    positions: NDArray[np.int64],
    features: int,
    by_channel: bool,
) -> Tensor:
    """The logarithms that the line gives at some positions."""
    assert spec.weights.decay is not None
    env = axes(sizes, 4 if by_channel else 3) | tables(inputs)
    env |= {STEP.name: positions[:, None] if by_channel else positions, CHANNEL.name: np.arange(features)}
    return real(spec.weights.decay, env, inputs, dtype=torch.float64, device=device)
