"""The frequencies of rotary position embeddings: the angle of each pair of dimensions from one position to the next.

Sources: RoPE: Su et al., 2021; YaRN: Peng et al., 2023, with the ramp of the paper ("rotations") or that of the
published repository, Hugging Face and DeepSeek ("index"). Llama-3's and others are formulas in a spec.

>>> from attnspec.spec.expr import Var
>>> frequencies(Rotation("rope", (("theta", 100.0),), Var("q"), Var("k")), 4)
tensor([1.0000, 0.1000], dtype=torch.float64)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.device import capturing, on_device
from attnspec.runtime.core.visible import visible
from attnspec.runtime.prepare.formula import value
from attnspec.spec.parts import Rotation, Setting
from attnspec.spec.real import RealExpr

_NOWHERE = Sizes(1, 1)


def rotated_dims(rotation: Rotation, dim: int) -> int:
    """How many dimensions of a head are turned, from ``rotation.start`` on; raises CallError where it cannot be."""
    dims = rotation.dims or dim - rotation.start
    if dims < 1 or rotation.start + dims > dim:
        first = (
            f"dimensions {rotation.start} to {rotation.start + dims - 1}" if rotation.start else f"{dims} dimensions"
        )
        first = first if dims > 0 else f"dimensions from {rotation.start} on"
        raise CallError(f"rotate {rotation.kind}: {first} are to be turned, but the head size is {dim}")
    if dims % 2:
        raise CallError(f"rotate {rotation.kind}: {dims} dimensions cannot be turned in pairs; the number must be even")
    return dims


def frequencies(
    rotation: Rotation,
    dims: int,
    sizes: Sizes = _NOWHERE,
    inputs: Mapping[str, Tensor] | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """The angle by which each of ``dims / 2`` pairs of dimensions turns from one position to the next, float64.

    (dims / 2,), or (batch or 1, heads or 1, 1, dims / 2) where they are read from inputs; differentiable in those.
    Raises CallError where they have no value, or not one for each pair.
    """
    if rotation.constant:
        return on_device(_constant, rotation, dims, device=device)
    return _worked_out(rotation, dims, sizes, inputs or {}, torch.device(device))


def attention_factor(
    rotation: Rotation,
    dims: int,
    sizes: Sizes = _NOWHERE,
    inputs: Mapping[str, Tensor] | None = None,
    device: torch.device | str = "cpu",
) -> float | Tensor:
    """The factor on both queries and keys, by default 1, YaRN's ``0.1 ln(factor) + 1``; of four dimensions if read."""
    setting = dict(rotation.options).get("attention_factor", 1.0)
    if not isinstance(setting, RealExpr):
        return float(setting)  # type: ignore[arg-type]
    return _number(rotation, setting, dims, sizes, inputs or {}, torch.device(device))


def _constant(rotation: Rotation, dims: int) -> Tensor:
    return _worked_out(rotation, dims, _NOWHERE, {}, torch.device("cpu")).flatten()


def _worked_out(
    rotation: Rotation, dims: int, sizes: Sizes, inputs: Mapping[str, Tensor], device: torch.device
) -> Tensor:
    options = dict(rotation.options)
    base = _number(rotation, options["theta"], dims, sizes, inputs, device)
    plain = torch.pow(base, -torch.arange(0, dims, 2, dtype=torch.float64, device=device) / dims)
    if rotation.kind == "yarn":
        factor = _number(rotation, options["factor"], dims, sizes, inputs, device)
        keep = _kept(options, base, plain, dims)
        plain = plain * keep + plain / factor * (1.0 - keep)
    chosen = options.get("frequencies")
    if isinstance(chosen, tuple):
        if len(chosen) != dims // 2:
            raise CallError(
                f"rotate {rotation.kind}: there are {len(chosen)} frequencies, but {dims // 2} pairs of dimensions "
                "are turned"
            )
        return torch.tensor(chosen, dtype=torch.float64, device=device)
    if isinstance(chosen, RealExpr):
        found = value(chosen, sizes, inputs, _over(dims), frequency=plain, **_how(device))
        plain = found.expand(*found.shape[:-1], dims // 2)
    if rotation.formulas and plain.device.type == "cpu" and visible(plain):
        _check_finite(rotation, plain)
    return plain


def _check_finite(rotation: Rotation, found: Tensor) -> None:
    if not bool(found.isfinite().all()):
        raise CallError(
            f"rotate {rotation.kind}: the frequencies are not finite numbers for all pairs of dimensions, but "
            f"{[round(x, 6) for x in found.flatten()[:8].tolist()]}{' ...' if found.numel() > 8 else ''}"
        )


def _kept(options: Mapping[str, Setting], base: Tensor, plain: Tensor, dims: int) -> Tensor:
    """By how much YaRN keeps each frequency, from 0 (divided by the factor) to 1 (as it is)."""
    length, fast, slow = (float(options[name]) for name in ("original", "beta_fast", "beta_slow"))  # type: ignore[arg-type]
    if options["ramp"] == "rotations":
        # The paper: by how often a pair turns within the original length.
        turns = length * plain / (2 * math.pi)
        return (turns >= slow).double() if fast == slow else ((turns - slow) / (fast - slow)).clamp(0.0, 1.0)
    # The repository: by the index of the pair, between those that turn `fast` and `slow` times.
    low, high = (dims * math.log(length / (r * 2 * math.pi)) / (2 * base.log()) for r in (fast, slow))
    if options["truncate"]:
        low, high = low.floor(), high.ceil()
    low, high = low.clamp_min(0), high.clamp_max(dims - 1)
    high = torch.where(low == high, high + 0.001, high)
    pair = torch.arange(dims // 2, dtype=torch.float64, device=plain.device)
    return 1.0 - ((pair - low) / (high - low)).clamp(0.0, 1.0)


def _number(
    rotation: Rotation,
    setting: Setting,
    dims: int,
    sizes: Sizes,
    inputs: Mapping[str, Tensor],
    device: torch.device,
) -> Tensor:
    """One number, or one for each head and batch entry."""
    if not isinstance(setting, RealExpr):
        return torch.tensor(float(setting), dtype=torch.float64, device=device)  # type: ignore[arg-type]
    return value(setting, sizes, inputs, _over(dims), **_how(device))


def _over(dims: int) -> dict[str, range]:
    return {"pair": range(dims // 2)}


def _how(device: torch.device) -> dict[str, Any]:
    """How formulas are worked out: strictly, unless a graph is being captured, which was tried before."""
    return {"device": device, "whole": True, "eager": not capturing()}
