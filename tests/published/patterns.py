"""What a pattern means in a model: eager attention with a mask of every pair, which the pattern's definition gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import attnspec
from attnspec.spec.spec import Spec


def dense(spec: Spec, attention_mask: Tensor, heads: int = 1) -> Tensor:
    """The mask that is added to scores, (batch, 1, n, n): of each batch entry from its first real token to its last."""
    batch, n = attention_mask.shape
    seen = torch.zeros(batch, heads, n, n, dtype=torch.bool)
    for b in range(batch):
        real = attention_mask[b].nonzero().flatten()
        low, high = int(real[0]), int(real[-1]) + 1
        seen[b, :, low:high, low:high] = torch.from_numpy(spec.mask(high - low, heads=heads)[0]) > 0
    return torch.where(seen, 0.0, torch.finfo(torch.float32).min)


def of_documents(spec: Spec, lengths: Sequence[int], restart: bool) -> Tensor:
    """The same for documents that are packed, (1, 1, n, n)."""
    n = sum(lengths)
    seen, at = torch.zeros(1, 1, n, n, dtype=torch.bool), 0
    for length in lengths:
        end = at + length
        own = spec.mask(length)[0, 0] if restart else spec.mask(n)[0, 0, at:end, at:end]
        seen[0, 0, at:end, at:end] = torch.from_numpy(own) > 0
        at = end
    return torch.where(seen, 0.0, torch.finfo(torch.float32).min)


def positions_of(attention_mask: Tensor) -> Tensor:
    return (attention_mask.cumsum(1) - 1).clamp(0)


def recomputed(model: Any, spec: Spec, ids: Tensor, attention_mask: Tensor, steps: int) -> Tensor:
    """Greedy tokens, each from the whole sequence with its whole mask, by eager attention."""
    model.set_attn_implementation("eager")
    for _ in range(steps):
        given = {"attention_mask": dense(spec, attention_mask), "position_ids": positions_of(attention_mask)}
        with torch.no_grad():
            found = model(ids, use_cache=False, **given).logits[:, -1].argmax(-1)
        ids = torch.cat([ids, found[:, None]], 1)
        attention_mask = torch.cat([attention_mask, torch.ones_like(ids[:, :1])], 1)
    return ids


def spec_of(name: str) -> Spec:
    shipped, _, params = SPECS[name]
    return attnspec.read(shipped, params=params)


SPECS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sinks": ("sinks", "attnspec:few-sinks", {"start": 2, "recent": 6}),
    "dilated": ("dilated", "attnspec:dilated", {"width": 4, "rate": 3}),
    "window": ("window", "attnspec:window", {"width": 5}),
}
"""Patterns: a shipped spec, the name that they are registered under, parameters."""
