"""Small models of transformers with random weights, made from their configs: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor

import attnspec.transformers as hf

WORDS = 48
_SIZES = {"vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
_ENDS = {"bos_token_id": 0, "eos_token_id": None, "pad_token_id": 0}
PLAIN = {**_SIZES, **_HEADS, **_ENDS}
BOTH = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8, "head_dim": 16}
_EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
_CHUNKS = {
    "layer_types": ["chunked_attention", "full_attention"],
    "attention_chunk_size": 8,
    "head_dim": 8,
    "intermediate_size_mlp": 32,
    "moe_layers": [1],
    "attn_temperature_tuning": False,
}


def _gpt2() -> Any:
    sizes = {"vocab_size": WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
    drops = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **drops, **_ENDS))


def _maker(name: str, config: str, more: dict[str, Any]) -> Callable[[], Any]:
    return lambda: getattr(transformers, name)(getattr(transformers, config)(**{**PLAIN, **more}))


DECODERS: dict[str, Callable[[], Any]] = {
    "Llama": _maker("LlamaForCausalLM", "LlamaConfig", {}),
    "Mistral": _maker("MistralForCausalLM", "MistralConfig", {"sliding_window": 8}),
    "GPT-2": _gpt2,
    "Gemma 2": _maker("Gemma2ForCausalLM", "Gemma2Config", {**BOTH, "attn_logit_softcapping": 5.0}),
    "Gemma 3": _maker("Gemma3ForCausalLM", "Gemma3TextConfig", BOTH),
    "gpt-oss": _maker("GptOssForCausalLM", "GptOssConfig", {**BOTH, **_EXPERTS}),
    "Qwen 3": _maker("Qwen3ForCausalLM", "Qwen3Config", {"head_dim": 8}),
    "Phi 3": _maker("Phi3ForCausalLM", "Phi3Config", {}),
    "Llama 4": _maker("Llama4ForCausalLM", "Llama4TextConfig", {**_EXPERTS, **_CHUNKS}),
}
"""Each with two layers, of which in some the first sees the last 8 positions, or a chunk of 8, only."""


def decoder(name: str) -> Any:
    """One of them, always with the same weights, large enough to make scores that differ."""
    torch.manual_seed(0)
    model = DECODERS[name]().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def ids(batch: int, length: int) -> Tensor:
    """Token ids, none of them 0."""
    return torch.randint(1, WORDS, (batch, length), generator=torch.Generator().manual_seed(length))


def ours(name: str) -> Any:
    """The same with its own masks in our kernels."""
    hf.register("attnspec")
    model = decoder(name)
    model.set_attn_implementation("attnspec")
    return model


def trained(model: Any, way: Any = None) -> list[Tensor]:
    """The loss and all gradients of a step of training, the model called as it is or in another ``way``."""
    model.zero_grad()
    run = model if way is None else way
    loss = run(ids(3, 20), labels=ids(3, 20), use_cache=False).loss
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters())]
