"""Other decoders of transformers over segments: positions, windows and states are as a spec says, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import attnspec

WORDS = 32
IDS = torch.randint(WORDS, (2, 21), generator=torch.Generator().manual_seed(0))
TWO = {"num_hidden_layers": 2, "num_attention_heads": 2}
PLAIN = {"vocab_size": WORDS, "hidden_size": 16, "bos_token_id": 0, "eos_token_id": 0}


def opt() -> Any:
    more = {"ffn_dim": 16, "word_embed_proj_dim": 16, "max_position_embeddings": 64, "dropout": 0.0}
    return transformers.OPTForCausalLM(transformers.OPTConfig(**PLAIN, **TWO, **more))


def llama(**more: Any) -> Any:
    sizes = {"intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**PLAIN, **sizes, **more}))


def neo() -> Any:
    kinds = [[["global", "local"], 1]]
    return transformers.GPTNeoForCausalLM(
        transformers.GPTNeoConfig(**PLAIN, num_layers=2, num_heads=2, attention_types=kinds, window_size=8)
    )


def xlnet() -> Any:
    return transformers.XLNetLMHeadModel(transformers.XLNetConfig(vocab_size=WORDS, d_model=16, n_layer=1, n_head=2))


def bloom() -> Any:
    return transformers.BloomForCausalLM(transformers.BloomConfig(**PLAIN, n_layer=1, n_head=2))


def mamba() -> Any:
    return transformers.MambaForCausalLM(transformers.MambaConfig(**PLAIN, num_hidden_layers=1, state_size=4))


@pytest.mark.slow
def test_positions_are_counted_where_a_model_counts_them_by_its_mask() -> None:
    model = opt().eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    both = attnspec.recurrent(model, "rmt_both_ways", slots=2, segment=8)
    memory = both.own.initial["written"].expand(2, -1, -1)
    mask = torch.ones(1, 1, 12, 12, dtype=torch.bool).tril()
    mask[..., :2, :2] = mask[..., -2:, -2:] = True
    vectors = torch.cat([memory, model.get_input_embeddings()(IDS[:, :8]), memory], 1)
    found = model.base_model(inputs_embeds=vectors, attention_mask=mask, position_ids=torch.arange(12)[None])
    want = model.lm_head(found.last_hidden_state[:, 2:-2])
    assert torch.allclose(both(IDS[:, :8], logits=True).logits, want, atol=1e-5)


NO_LAYERS = "has no cache of keys and values alone: nothing can be carried by layer"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "spec", "message"),
    [
        (neo, "rmt", r"see the last 8 positions only \(window_size\), and a segment has 12"),
        (xlnet, "rmt", "XLNetLMHeadModel is not causal"),
        (xlnet, "transformer_xl", NO_LAYERS),
        (mamba, "rmt_both_ways", "takes no attention but its own"),
        (mamba, "transformer_xl", NO_LAYERS),
    ],
)
def test_what_a_decoder_cannot_is_refused(made: Callable[[], Any], spec: str, message: str) -> None:
    more = {"length": 8} if spec == "transformer_xl" else {"slots": 2}
    with pytest.raises(attnspec.CallError, match=message):
        attnspec.recurrent(made(), spec, segment=8, **more)


@pytest.mark.slow
def test_what_must_be_tried_is_not_on_meta() -> None:
    with pytest.raises(attnspec.CallError, match="cannot be tried on meta"):
        attnspec.recurrent(bloom().to("meta"), "rmt", slots=2, segment=8)
    assert attnspec.recurrent(llama().to("meta"), "rmt", slots=2, segment=8).attention.startswith("LlamaForCausalLM's")


@pytest.mark.slow
@pytest.mark.parametrize("made", [opt, bloom, mamba])
def test_they_go_on_token_by_token(made: Callable[[], Any]) -> None:
    """Also a model with a state in place of keys, of which a segment is run as a whole."""
    model = attnspec.recurrent(made().eval(), "rmt", slots=2, segment=8)
    want = IDS
    for _ in range(10):
        want = torch.cat([want, model(want, logits=True).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(model.generate(IDS, max_new_tokens=10), want)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"num_key_value_heads": 4}, r"keys or values of \(2, 4, 8, 4\); this model's are \(2, 2, 8, 4\)"),
        ({"head_dim": 8}, r"keys or values of \(2, 2, 8, 8\); this model's are \(2, 2, 8, 4\)"),
        ({"num_hidden_layers": 3}, "the state is of a model of 3 layers; this one has 2"),
    ],
)
def test_keys_and_values_of_another_model_are_refused(other: dict[str, int], message: str) -> None:
    state = attnspec.recurrent(llama(**other), "transformer_xl", segment=8, length=8)(IDS).state
    model = attnspec.recurrent(llama(), "transformer_xl", segment=8, length=8)
    with pytest.raises(attnspec.CallError, match=message):
        model(IDS, state=state)
    own = model(IDS).state
    assert model(IDS, state=own.to(torch.float64)).state.positions == 42
    with pytest.raises(attnspec.CallError, match=r"\(1, 2, 8, 4\); this model's are \(2, 2, 8, 4\)"):
        model(IDS, state=own.each(lambda t: t[:1]))


def mixtral(experts: int) -> Any:
    sizes = {"intermediate_size": 24, "num_key_value_heads": 1, "sliding_window": None, "num_experts_per_tok": 2}
    return transformers.MixtralForCausalLM(
        transformers.MixtralConfig(**PLAIN, **TWO, **sizes, num_local_experts=experts)
    )


@pytest.mark.slow
def test_costs_count_the_experts_that_a_position_goes_to() -> None:
    """More of them are more rows of the router of each layer; what a state takes is not known."""
    two, four = (attnspec.recurrent(mixtral(experts), "rmt", slots=2, segment=8).cost(21) for experts in (2, 4))
    assert two.operations is not None
    assert four.operations == two.operations + 2 * two.positions * 2 * 2 * 16
    cost = attnspec.recurrent(mamba(), "rmt", slots=2, segment=8).cost(21)
    assert (cost.operations, cost.carried_bytes, cost.positions) == (None, 2 * 16 * 4, 33)


@pytest.mark.slow
def test_new_tokens_after_it_is_wrapped() -> None:
    model = llama()
    over = attnspec.recurrent(model, "rmt", slots=2, segment=8)
    model.resize_token_embeddings(WORDS + 5)
    assert over(IDS + 5, labels=IDS + 5, logits=True).logits.shape == (2, 21, WORDS + 5)
    with pytest.raises(attnspec.CallError, match="there are embeddings for 0 to 36"):
        over(IDS + 9)
