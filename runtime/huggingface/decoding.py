"""A decoding step of a layer of transformers, or of a whole small model, on random tensors and weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, StaticCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaAttention

from attnspec.runtime.huggingface.register import register
from attnspec.runtime.huggingface.tiny import CACHE

NAMES = ("attnspec", "sdpa")


@dataclass(frozen=True)
class Row:
    """A step: one new token after ``n - 1`` others, on the CPU, in float32.

    ``what`` is ``"attention"`` (all that a layer hands to its attention, as often as a model has layers: the mask is
    made once) or ``"model"`` (everything, from ids to logits); ``cache`` is that of a model, dynamic or static;
    ``padded`` tokens on the left are none.
    """

    what: str
    n: int
    heads: int = 32
    kv_heads: int = 8
    dim: int = 128
    layers: int = 1
    cache: str = "dynamic"
    padded: int = 0

    @property
    def title(self) -> str:
        """What is measured, in words."""
        padded = f", {self.padded} of them padding" if self.padded else ""
        if self.what == "attention":
            return f"attention of a layer{padded}"
        return f"a model of {self.layers} layers, {self.cache} cache{padded}"

    @property
    def config(self) -> Any:
        """A Llama of these sizes, with a narrow feed-forward part and few words."""
        width = self.heads * self.dim
        heads = {"num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads, "head_dim": self.dim}
        sizes = {"hidden_size": width, "intermediate_size": width, "num_hidden_layers": self.layers}
        return LlamaConfig(**sizes, **heads, vocab_size=64, max_position_embeddings=1 << 16)


ROWS = (
    *(Row("attention", n) for n in (256, 4096)),
    *(Row("attention", n, padded=n // 4) for n in (256, 4096)),
    *(
        Row("model", n, heads=8, kv_heads=2, dim=64, layers=4, cache=kind)
        for kind in ("dynamic", "static")
        for n in (256, 4096)
    ),
)


def calls(row: Row) -> dict[str, Callable[[], Tensor]]:
    """The step with our attention and with SDPA's, by their names in transformers. Each leaves things as they were."""
    register("attnspec")
    made = _attention if row.what == "attention" else _model
    return {name: made(row, name) for name in NAMES}


def _attention(row: Row, name: str) -> Callable[[], Tensor]:
    config, generator = row.config, torch.Generator().manual_seed(0)
    config._attn_implementation = name
    with torch.device("meta"):
        layer = LlamaAttention(config, 0).eval()  # its weights are not asked for
    q, k, v = (torch.randn(1, h, n, row.dim, generator=generator) for h, n in _shapes(row))
    cache, hidden = DynamicCache(), torch.empty(1, 1, 1)
    cache.update(k[:, :, 1:], v[:, :, 1:], 0)
    mask = create_causal_mask(config, hidden, _real(row), cache)

    def call() -> Tensor:
        out: Tensor = ALL_ATTENTION_FUNCTIONS[name](layer, q, k, v, mask, dropout=0.0, scaling=layer.scaling)[0]
        return out

    return call


def _shapes(row: Row) -> tuple[tuple[int, int], ...]:
    return (row.heads, 1), (row.kv_heads, row.n), (row.kv_heads, row.n)


def _real(row: Row) -> Tensor | None:
    return (torch.arange(row.n) >= row.padded).long()[None] if row.padded else None


def _model(row: Row, name: str) -> Callable[[], Tensor]:
    config = row.config
    config._attn_implementation = name
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = LlamaForCausalLM(config).eval()
    ids = torch.randint(0, 64, (1, row.n), generator=torch.Generator().manual_seed(0))
    # A static cache has room for more: half of it is not written.
    cache: Any = StaticCache(config, max_cache_len=2 * row.n) if row.cache == "static" else DynamicCache(config=config)
    real = _real(row)
    with torch.no_grad():
        model(ids[:, :-1], attention_mask=None if real is None else real[:, :-1], **{CACHE: cache})

    def call() -> Tensor:
        out: Tensor = model(ids[:, -1:], attention_mask=real, **{CACHE: cache}).logits
        cache.crop(-1)  # as before the step
        return out

    return call
