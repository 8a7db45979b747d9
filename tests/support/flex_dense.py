"""What FlexAttention's functions mean: evaluated at every pair, in float64."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

from tests.support.flex_masks import MaskMod
from tests.support.flex_scores import ScoreMod


def _each(function: Any, first: tuple[int | None, ...], *args: Tensor) -> Tensor:
    """A function of single positions over all batch entries, heads, queries and keys."""
    for at in (3, 2, 1, 0):
        function = torch.vmap(function, in_dims=(*first, *(0 if at == i else None for i in range(4))))
    with TransformGetItemToIndex():
        out: Tensor = function(*args)
    return out


def mask_of(mask_mod: MaskMod, batch: int, heads: int, n_q: int, n: int) -> Tensor:
    """(batch, heads, n_q, n), bool."""
    return _each(mask_mod, (), *map(torch.arange, (batch, heads, n_q, n)))


def dense(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, score_mod: ScoreMod | None, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp; rows without keys are zeros and minus infinity."""
    groups = q.shape[1] // k.shape[1]
    q, k, v = q.double(), *(t.double().repeat_interleave(groups, 1) for t in (k, v))
    s = q @ k.mT * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if score_mod is not None:
        s = _each(score_mod, (0,), s, *map(torch.arange, s.shape))
    if mask is not None:
        s = s.masked_fill(~mask, -math.inf)
    lse = s.logsumexp(-1)
    return torch.exp(s - lse.masked_fill(lse.isinf(), 0.0)[..., None]) @ v, lse
