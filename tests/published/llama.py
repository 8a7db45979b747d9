"""The attention layer of Llama as transformers publishes it, beside a pattern of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from attnspec.runtime.attention import Attention
from tests.published.comparing import additive, alike, learned, merge, random, split

pytest.importorskip("transformers")
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

N, DIM = 150, 16
CAUSAL = torch.ones(N, N, dtype=torch.bool).tril()


def config(**parameters: Any) -> LlamaConfig:
    """Four heads that share the keys of two; ``parameters`` are those of rotations, ``longest`` the longest text."""
    return LlamaConfig(
        hidden_size=4 * DIM,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=parameters.pop("longest", 2048),
        attn_implementation="eager",
        rope_parameters=parameters,
    )


def agrees(attend: Attention, made: LlamaConfig, inputs: Mapping[str, Tensor] | None = None) -> None:
    """Assert that the layer with our attention is the published one, with all gradients.

    The published tables of angles are float32: at position 149 an angle is off by up to 1e-5.
    """
    module = LlamaAttention(made, 0).eval()
    weights = learned(module)
    x = random(2, N, 4 * DIM)
    tables = LlamaRotaryEmbedding(made)(x, torch.arange(N)[None])

    def ours() -> Tensor:
        q, k, v = (
            split(getattr(module, f"{which}_proj")(x), heads) for which, heads in zip("qkv", (4, 2, 2), strict=True)
        )
        return module.o_proj(merge(attend(q, k, v, inputs=inputs)))  # type: ignore[no-any-return]

    alike(ours, lambda: module(x, tables, additive(CAUSAL))[0], {"x": x} | weights, 1e-4)
