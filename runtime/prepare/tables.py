"""The cosines and sines by which vectors turn, kept where positions are those of the rows.

Angles are worked out in float64, so that position 1,000,000 is as exact as position 1. xPos (Sun et al., 2022) shrinks
the one side and stretches the other, with the decay of torchscale's ``XPOS``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.device import capturing, on_device
from attnspec.runtime.core.visible import visible
from attnspec.runtime.prepare.frequencies import attention_factor, frequencies
from attnspec.runtime.prepare.positions import ends_of
from attnspec.spec.parts import Rotation

LARGEST_CACHED = 1 << 22
"""Tables with more entries than this are not kept: sixteen of them hold 256 MiB at most."""
BLOCK = 128
"""Tables for fewer rows are cut from those of so many positions: a step of a generation, one row, finds them made."""
REACH = {torch.float16: 12.0, torch.bfloat16: 120.0, torch.float32: 120.0, torch.float64: 1000.0}
"""By how many powers of two xPos may scale a vector of each dtype up or down."""


def cached_tables(
    rotation: Rotation,
    positions: Tensor | range,
    dims: int,
    side: str,
    centre: float,
    x: Tensor,
    sizes: Sizes,
    inputs: Mapping[str, Tensor],
) -> tuple[Tensor, Tensor]:
    """:func:`tables` for the vectors ``x``; those of ranges are kept, if they do not depend on the call.

    Raises CallError where positions are too far from the centre for xPos.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if rotation.kind == "xpos":
        _check_reach(rotation, positions, centre, x.dtype)
    # Tensors of other types (fake ones, say) must not reach the cache.
    if isinstance(positions, range) and len(positions) * dims <= LARGEST_CACHED and rotation.constant and visible(x):
        try:
            return _kept(rotation, positions, dims, side, centre, dtype, x.device)
        except _NotKept:
            pass
    return tables(rotation, positions, dims, side, centre, dtype, x.device, sizes, inputs)


def tables(
    rotation: Rotation,
    positions: Tensor | range,
    dims: int,
    side: str,
    centre: float = 0.0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    sizes: Sizes | None = None,
    inputs: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Cosines and sines, times the attention factor of the rotation, as ``dtype``.

    (n, dims / 2), or (batch or 1, heads or 1, n, dims / 2) where positions or frequencies differ by them; ``positions``
    are a range, (n,), (batch, n), (batch, heads, n), or (batch, heads, n, dims / 2) and what broadcasts to that. They
    are differentiable in positions and in the inputs that the rotation reads.
    """
    call = (sizes or Sizes(1, 1), inputs, device)
    if isinstance(positions, range):
        places = torch.arange(positions.start, positions.stop, positions.step, dtype=torch.float64, device=device)
    else:
        places = positions.to(device=device, dtype=torch.float64)
        places = places[:, None] if places.dim() == 2 else places
    places = places if places.dim() == 4 else places[..., None]
    angles = places * frequencies(rotation, dims, *call)
    cos, sin = angles.cos(), angles.sin()
    if rotation.kind == "xpos":
        sign = 1.0 if side == "q" else -1.0
        scale = torch.exp2(places.sub(centre).mul(sign) * on_device(_decay, rotation, dims, device=device))
        cos, sin = cos * scale, sin * scale
    factor = attention_factor(rotation, dims, *call)
    return (cos * factor).to(dtype), (sin * factor).to(dtype)


class _NotKept(Exception):
    """A table would hold numbers only when a graph that is being captured is replayed."""


def _kept(
    rotation: Rotation,
    positions: range,
    dims: int,
    side: str,
    centre: float,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Those of a range, made once. Raises _NotKept."""
    if rotation.kind == "xpos":  # it alone has tables of each side, and of the centre of a call
        return _cached(rotation, positions, dims, side, centre, dtype, device)
    low = positions.start // BLOCK * BLOCK
    if positions.step != 1 or positions.stop > low + BLOCK:
        return _cached(rotation, positions, dims, "q", centre, dtype, device)
    cos, sin = _cached_block(rotation, range(low, low + BLOCK), dims, "q", centre, dtype, device)
    rows = slice(positions.start - low, positions.stop - low)
    return cos[rows], sin[rows]


def _made(*arguments: Any) -> tuple[Tensor, Tensor]:
    if capturing():
        raise _NotKept
    with torch.inference_mode(False):  # what is kept may later be needed for gradients
        return tables(*arguments)


_cached, _cached_block = lru_cache(maxsize=16)(_made), lru_cache(maxsize=64)(_made)


def _decay(rotation: Rotation, dims: int) -> Tensor:
    """By how many powers of two each pair shrinks from one position to the next, (dims / 2,), float64: at most 0."""
    base = float(dict(rotation.options)["scale_base"])  # type: ignore[arg-type]
    return torch.log2((torch.arange(0, dims, 2, dtype=torch.float64) / dims + 0.4) / 1.4) / base


def _check_reach(rotation: Rotation, positions: Tensor | range, centre: float, dtype: torch.dtype) -> None:
    """Refuse positions so far from the centre that xPos would overflow, where they can be looked at."""
    ends = ends_of(positions)
    base = float(dict(rotation.options)["scale_base"])  # type: ignore[arg-type]
    reach = REACH[dtype] * base / -math.log2(0.4 / 1.4)
    if any(abs(end - centre) > reach for end in ends):
        raise CallError(
            f"rotate xpos: positions {min(ends):,.0f} to {max(ends):,.0f} with scale_base = {base:g} leave the range "
            f"of {str(dtype).removeprefix('torch.')}, which holds {int(2 * reach):,} positions. A larger scale_base "
            "decays more slowly"
        )
