"""Longformer against Hugging Face's self-attention: windows, global tokens with their own projections, padding."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import attnspec
from tests.published.comparing import alike, learned, merge, random, split

pytest.importorskip("transformers")
from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

HEADS, DIM, WIDTH, N = 2, 16, 24, 96


def published() -> tuple[Any, dict[str, Tensor]]:
    config = SimpleNamespace(
        hidden_size=HEADS * DIM,
        num_attention_heads=HEADS,
        attention_probs_dropout_prob=0.0,
        attention_window=[WIDTH],
    )
    module = LongformerSelfAttention(config, 0).eval()
    return module, learned(module)


def run(module: Any, x: Tensor, far: Tensor, padding: Tensor) -> Tensor:
    """The published layer; ``far`` and ``padding`` are (batch, n), bool."""
    mask = torch.zeros(far.shape).masked_fill(far, 1e4).masked_fill(padding, -1e4)
    flags = {"is_index_masked": padding, "is_index_global_attn": far, "is_global_attn": bool(far.any())}
    return module(x, attention_mask=mask, **flags)[0]  # type: ignore[no-any-return]


def project(module: Any, x: Tensor, suffix: str = "") -> list[Tensor]:
    return [split(getattr(module, name + suffix)(x), HEADS) for name in ("query", "key", "value")]


def test_global_tokens_at_the_start_as_axes() -> None:
    attend = attnspec.compile("longformer_axes", width=WIDTH, globals=5)
    module, weights = published()
    x = random(2, N, HEADS * DIM)
    far = (torch.arange(N) < 5).expand(2, N)

    def mine() -> Tensor:
        near, projected = project(module, x), project(module, x, "_global")
        q, k, v = (torch.cat(pair, dim=2) for pair in zip(near, projected, strict=True))
        out = attend(q[:, :, : N + 5], k, v)
        return merge(torch.cat([out[:, :, N:], out[:, :, 5:N]], dim=2))

    # A key's bias moves all scores of a row alike: its gradient is zero but for rounding.
    sources = {"x": x} | {name: p for name, p in weights.items() if name not in ("key.bias", "key_global.bias")}
    alike(mine, lambda: run(module, x, far, torch.zeros_like(far)), sources)


ANYWHERE = """attention anywhere(width = 24) {
    input far: bool[batch, n]
    input length: int[batch]
    attend |q - k| <= width // 2
    attend far[k]
    within k < length
}"""


def test_global_tokens_anywhere_and_padding() -> None:
    """The global rows are a call of their own, with the global projections, over all keys that are no padding."""
    near, dense = attnspec.compile(ANYWHERE, width=WIDTH), attnspec.compile("padded")
    module, weights = published()
    x = random(2, N, HEADS * DIM)
    far = torch.zeros(2, N, dtype=torch.bool)
    far[0, [0, 40, 41, 95]] = far[1, [17]] = True
    length = torch.tensor([N, 70])
    padding = torch.arange(N) >= length[:, None]

    def mine() -> Tensor:
        local = near(*project(module, x), far=far, length=length)
        whole = dense(*project(module, x, "_global"), length=length)
        out = torch.where(far[:, None, :, None], whole, local)
        return merge(out).masked_fill(padding[..., None], 0.0)

    sources = {"x": x} | {name: p for name, p in weights.items() if name not in ("key.bias", "key_global.bias")}
    alike(mine, lambda: run(module, x, far, padding).masked_fill(padding[..., None], 0.0), sources)


def test_the_window_alone() -> None:
    attend = attnspec.compile("attention band(width = 24) { attend |q - k| <= width // 2 }", width=WIDTH)
    module, weights = published()
    x, none = random(2, N, HEADS * DIM), torch.zeros(2, N, dtype=torch.bool)
    names = ("query.weight", "query.bias", "key.weight", "value.weight", "value.bias")
    sources = {"x": x} | {name: weights[name] for name in names}
    alike(lambda: merge(attend(*project(module, x))), lambda: run(module, x, none, none), sources)
