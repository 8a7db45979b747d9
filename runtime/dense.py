"""Attention over a whole mask in plain PyTorch: the oracle of the tests, and a target when asked for by name."""

from __future__ import annotations

import torch
from torch import Tensor


def dense_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Softmax attention over the pairs of a mask, and its log-sum-exp.

    Shapes as in :func:`attnspec.compile`'s callable; ``mask`` is (batch, heads, n_q, n) or broadcasts to it, bool.
    Computed in the dtype of the inputs (give float64 for an oracle). A row without keys gives zeros and minus infinity.
    """
    group = q.shape[1] // k.shape[1]
    keys, values = (t.repeat_interleave(group, dim=1) if group > 1 else t for t in (k, v))
    scores = (q @ keys.transpose(-1, -2)) * scale
    scores = scores.masked_fill(~mask, float("-inf"))
    lse = torch.logsumexp(scores, dim=-1)
    empty = ~mask.any(dim=-1).expand(lse.shape)
    safe = lse.masked_fill(empty, 0.0)
    weights = torch.exp(scores - safe[..., None]).masked_fill(~mask, 0.0)
    return weights @ values, lse
