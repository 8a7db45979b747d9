"""Many more decoders of transformers, and half precision: their own masks in our kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import attnspec
import attnspec.transformers as hf
from tests.published.tiny import BOTH, PLAIN, decoder, ids
from tests.support.marks import slow

hf.register("attnspec")
hf.register("attnspec:near-others", "sinks", start=2, recent=10)
LEFT = (torch.arange(20) >= torch.tensor([0, 5, 11])[:, None]).long()
_LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}
_LINEAR = {
    "head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
_AS_LLAMA = """
    Apertus Arcee BitNet Cohere DiffLlama Ernie4_5 Glm Glm4 GPTBigCode GPTNeoX Granite MiniMax Mixtral Nemotron Olmo2
    OPT Persimmon Phi Qwen2 Qwen2Moe SeedOss SmolLM3 StableLm Starcoder2
"""
OTHERS: dict[str, dict[str, Any]] = {
    **{name: {} for name in _AS_LLAMA.split()},
    **{name: {**BOTH, "sliding_window_pattern": 2} for name in ("Cohere2", "Exaone4", "Olmo3")},
    "DeepseekV2": _LATENT,
    "DeepseekV3": _LATENT,
    "Jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False, "num_experts": 2},
    "Lfm2": {"layer_types": ["conv", "full_attention"]},
    "Ministral": {"head_dim": 8, "sliding_window": 8},
    "Qwen3Next": _LINEAR,
}


def made(name: str) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**PLAIN, **OTHERS[name]})
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_logits(name: str) -> None:
    """Of a batch with padding on the left."""
    model, found = made(name), []
    for implementation in ("eager", "attnspec"):
        model.set_attn_implementation(implementation)
        assert model.config._attn_implementation == implementation
        with torch.no_grad():
            found.append(model(ids(3, 20), attention_mask=LEFT).logits[LEFT == 1])
    assert torch.allclose(*found, atol=1e-5, rtol=1e-5)


_NO_BOUNDED = {
    "DeepseekV2": "DeepseekV2ForCausalLM keeps latents in its cache",
    "DeepseekV3": "DeepseekV3ForCausalLM keeps latents in its cache",
    "DiffLlama": "attends more than once to the same keys",
    **dict.fromkeys(("MiniMax", "Jamba", "Lfm2", "Qwen3Next"), "keeps something other than keys"),
}


@pytest.mark.parametrize("name", [name if name in ("DiffLlama", "DeepseekV3") else slow(name) for name in OTHERS])
def test_bounded_caches(name: str) -> None:
    """A cache that drops keys gives the tokens of recomputing, or says why it cannot."""
    model = made(name)
    for implementation in ("attnspec:near-others", "attnspec"):
        model.set_attn_implementation(implementation)
        step = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        if name in _NO_BOUNDED:
            with pytest.raises(attnspec.CallError, match=_NO_BOUNDED[name]):
                model.generate(ids(1, 20), past_key_values=hf.cache(model), **step)
            continue
        whole = ids(1, 20)
        with torch.no_grad():
            for _ in range(4):
                whole = torch.cat([whole, model(whole, use_cache=False).logits[:, -1:].argmax(-1)], 1)
        assert torch.equal(model.generate(ids(1, 20), past_key_values=hf.cache(model), **step), whole)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["Llama", "Gemma 2", "gpt-oss"])
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    """As near to eager attention in float32 as eager attention in half precision is."""
    model = decoder(name)

    def logits(implementation: str) -> Tensor:
        model.set_attn_implementation(implementation)
        with torch.no_grad():
            found: Tensor = model(ids(3, 20), attention_mask=LEFT).logits[LEFT == 1]
        return found.float()

    exact = logits("eager")
    model.to(dtype)
    eager, ours = (float((logits(name) - exact).square().mean().sqrt()) for name in ("eager", "attnspec"))
    assert 0 < ours < 1.2 * eager
