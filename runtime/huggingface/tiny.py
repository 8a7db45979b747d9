"""A small Llama over bytes, made from a config: an example on real input, with nothing downloaded."""

from __future__ import annotations

import inspect
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from attnspec.runtime.attention import Attention
from attnspec.runtime.huggingface.cache import cache
from attnspec.runtime.huggingface.register import register

SIZES = {"tiny": (128, 2, 4), "small": (256, 4, 8)}
"""Width, layers and heads. Two query heads share the keys of one."""
CACHE = "cache" if "cache" in inspect.signature(LlamaForCausalLM.forward).parameters else "past_key_values"
"""What releases of transformers call a cache: the newer ones warn of the older name."""


def llama(size: str, attend: Attention, heads: int | None = None, seed: int = 0) -> nn.Module:
    """A Llama with a pattern as its attention."""
    width, layers, usual = SIZES[size]
    heads = heads or usual
    name = f"attnspec:{attend.program.digest[:16]}"
    register(name, attend)
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers, "vocab_size": 256}
    of_heads = {"num_attention_heads": heads, "num_key_value_heads": heads // 2 if heads % 2 == 0 else heads}
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LlamaConfig(**sizes, **of_heads, **ends, max_position_embeddings=1 << 20, attn_implementation=name)
        found: nn.Module = LlamaForCausalLM(config)
    return found


@dataclass(frozen=True)
class Written:
    """What a model wrote: bytes, in how many seconds, what was in its cache and what all keys would be.

    ``error`` is the largest difference of a logit from what the whole sequence gives at once: none but for rounding, if
    the cache has kept what it had to.
    """

    text: bytes
    seconds: float
    cache_bytes: int
    kept: str
    all_keys: int
    error: float

    @property
    def rate(self) -> float:
        """Bytes a second, the prompt included in the time."""
        return len(self.text) / self.seconds


@torch.no_grad()
def write(model: Any, prompt: Tensor, count: int) -> Written:
    """Sample so many bytes behind a prompt, (1, bytes), with a bounded cache. What has to be compiled is, before."""
    was = model.training
    model.eval()
    given = {"attention_mask": torch.ones_like(prompt), "return_dict_in_generate": True, "output_logits": True}
    with torch.random.fork_rng():
        for many in (2, count):
            torch.manual_seed(0)
            kept, start = cache(model), time.perf_counter()
            found = model.generate(prompt, max_new_tokens=many, do_sample=True, **given, **{CACHE: kept})
            seconds = time.perf_counter() - start
    ids = found.sequences
    whole = model(ids, use_cache=False).logits[0, prompt.shape[1] - 1 : -1]
    error = float((whole - torch.cat(found.logits)).abs().max())
    model.train(was)
    width = model.config.num_key_value_heads * model.config.head_dim * model.dtype.itemsize
    all_keys = 2 * len(kept.layers) * kept.get_seq_length() * width
    said = "; ".join(dict.fromkeys(map(str, kept.layers)))
    return Written(bytes(ids[0, prompt.shape[1] :].tolist()), seconds, kept.bytes, said, all_keys, error)
