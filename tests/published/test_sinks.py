"""Sinks and soft caps against Hugging Face's gpt-oss and Gemma 2."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import attnspec
from tests.published.comparing import additive, alike, learned, merge, random, split

pytest.importorskip("transformers")
from transformers import Gemma2Config, GptOssConfig
from transformers.models.gemma2.modeling_gemma2 import Gemma2Attention
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssAttention, GptOssRotaryEmbedding

N, DIM, WIDTH = 150, 16, 32
SIZES: dict[str, Any] = {
    "hidden_size": 4 * DIM,
    "head_dim": DIM,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "sliding_window": WIDTH,
    "attn_implementation": "eager",
}
WINDOW = torch.ones(N, N, dtype=torch.bool).tril() & ~torch.ones(N, N, dtype=torch.bool).tril(-WIDTH)


def project(module: Any, x: Tensor) -> list[Tensor]:
    return [split(getattr(module, f"{which}_proj")(x), heads) for which, heads in (("q", 4), ("k", 2), ("v", 2))]


def test_gpt_oss() -> None:
    """The published tables of angles are float32: an angle is off by up to 1e-5."""
    attend = attnspec.compile("gpt_oss", width=WIDTH)
    config = GptOssConfig(**SIZES)
    module = GptOssAttention(config, 0).eval()
    assert module.sliding_window == WIDTH
    weights = learned(module)
    x = random(2, N, 4 * DIM)
    tables = GptOssRotaryEmbedding(config)(x, torch.arange(N)[None])

    def mine() -> Tensor:
        return module.o_proj(merge(attend(*project(module, x), sinks=module.sinks)))  # type: ignore[no-any-return]

    sources = {"x": x} | {name: p for name, p in weights.items() if name != "k_proj.bias"}
    alike(mine, lambda: module(x, tables, additive(WINDOW))[0], sources, 1e-4)


def test_gemma2() -> None:
    """Without rotations: the published layer is given angles of zero."""
    attend = attnspec.compile("softcap", width=WIDTH, cap=2)
    config = Gemma2Config(**SIZES, attn_logit_softcapping=2.0, query_pre_attn_scalar=8)
    module = Gemma2Attention(config, 0).eval()
    weights = learned(module)
    x = random(2, N, 4 * DIM)
    tables = torch.ones(1, N, DIM), torch.zeros(1, N, DIM)

    def mine() -> Tensor:
        return module.o_proj(merge(attend(*project(module, x), scale=8**-0.5)))  # type: ignore[no-any-return]

    alike(mine, lambda: module(x, tables, additive(WINDOW))[0], {"x": x} | weights)


def test_a_sink_of_zero_is_softmax_off_by_one() -> None:
    attend = attnspec.compile("attention quiet { within causal sink 0 }")
    q, k, v = (random(2, 2, N, DIM, seed=i) for i in range(3))

    def formula() -> Tensor:
        terms = (q.double() @ k.double().transpose(-1, -2) / DIM**0.5).exp().tril()
        return terms / (1 + terms.sum(-1, keepdim=True)) @ v.double()

    alike(lambda: attend(q, k, v), formula, {"q": q, "k": k, "v": v})
