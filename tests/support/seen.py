"""What attention sees, by the definition in float64: weights of all pairs and the largest score of each row."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from attnspec.runtime import attend as around
from attnspec.runtime.attention import Attention
from attnspec.runtime.core.request import sizes_of
from attnspec.runtime.dense.pairs import counted
from attnspec.runtime.prepare.order import hash_buckets


def seen(attend: Attention, q: Tensor, k: Tensor, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Weights (batch, heads, n_q, n) and largest scores (batch, heads, n_q): values that are unit vectors show them."""
    spec, n = attend.spec, k.shape[2]
    of_branches = [seen(branch, q, k, inputs)[1] for branch in attend.branches] if spec.composed else []
    exact = {name: t.detach().double() if t.is_floating_point() else t for name, t in inputs.items()}
    if spec.order is not None and "buckets" not in exact:
        exact["buckets"] = hash_buckets(q.detach(), spec.order)
    unit = torch.eye(n, dtype=torch.float64).expand(*k.shape[:2], n, n)
    vectors = q.detach().double(), k.detach().double()
    weights, lse = around.dense(spec, *vectors, unit, None, exact)
    if of_branches:
        return weights, torch.stack(of_branches).amax(0)
    counts = counted(spec, sizes_of(spec, q, k), exact)
    times = counts if isinstance(counts, Tensor) else torch.stack(counts).sum(0)
    scores = (weights / times.clamp_min(1)).log() + lse[..., None]
    return weights, scores.masked_fill(times == 0, float("-inf")).amax(-1)
