"""Masks that users give to models, modules of other kinds than decoders, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import attnspec
import attnspec.transformers as hf
from attnspec.runtime.huggingface.choice import Choice
from attnspec.runtime.huggingface.layer import patterned
from tests.published.tiny import BOTH, PLAIN, decoder, ids

hf.register("attnspec")
attention = patterned(Choice())
SEEN = torch.ones(20, 20, dtype=torch.bool).tril() & (torch.arange(20) % 5 != 3) | torch.eye(20, dtype=torch.bool)


def both(model: Any, *args: Any, **more: Any) -> tuple[Tensor, Tensor]:
    """The first of what a model gives with eager attention, and with ours."""
    found = []
    with torch.no_grad():
        for name in ("eager", "attnspec"):
            model.set_attn_implementation(name)
            found.append(model(*args, **more)[0])
    return found[0], found[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:attnspec.transformers")
@pytest.mark.parametrize("how", ["numbers", "least"])
def test_a_mask_of_all_pairs(how: str) -> None:
    """Of 0 and minus infinity, or the least number: what eager attention adds to scores."""
    least = float("-inf") if how == "numbers" else torch.finfo(torch.float32).min
    mask = torch.zeros(3, 1, 20, 20).masked_fill(~SEEN, least)
    eager, ours = both(decoder("Llama"), ids(3, 20), attention_mask=mask)
    assert torch.allclose(eager, ours, atol=1e-5)


@pytest.mark.parametrize("heads", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_mask_of_booleans(heads: int) -> None:
    """As SDPA takes it, of all heads or of each; more keys than there are is no matter. It is said what it costs."""
    model = decoder("Llama")
    mask = SEEN.expand(1, heads, 20, 20)
    mask = torch.cat([mask, mask[..., :4]], 3)
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        sdpa = model(ids(3, 20), attention_mask=mask[..., :20]).logits
        model.set_attn_implementation("attnspec")
        with pytest.warns(UserWarning, match="a mask of 4 dimensions is read pair by pair, 20 x 20 of them"):
            ours = model(ids(3, 20), attention_mask=mask).logits
    assert torch.allclose(sdpa, ours, atol=1e-5)


def layer(**more: Any) -> tuple[Tensor, None]:
    q, k, v = torch.randn(3, 2, 2, 8, 8).unbind(0)
    return attention(more.pop("module", nn.Identity()), q, k, v, more.pop("attention_mask", None), **more)


class Causal(nn.Module):
    """A module that says that it is causal."""

    is_causal = True


ALL = torch.ones(2, 1, 8, 8, dtype=torch.bool)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "dropout": ({"dropout": 0.1}, r"Identity asks for dropout of weights \(0.1\).* set attention_dropout"),
    "weights": ({"output_attentions": True}, 'output_attentions asks .* attn_implementation="eager"'),
    "head_mask": ({"head_mask": ALL}, "there is no head_mask"),
    "offsets": ({"cu_seq_lens_q": torch.tensor([0, 8])}, "cu_seq_lens_q is for FlashAttention: give position_ids"),
    "unknown": ({"magic": 3}, "Identity hands over `magic`, which is not known here"),
    "window": ({"sliding_window": 4, "is_causal": True}, "has a window of 4 keys, and no mask came with it"),
    "not said": ({}, r"no mask came to Identity, and it does not say whether it is causal \(is_causal\)"),
    "integers": ({"attention_mask": ALL.long()}, "the mask is torch.int64: give one of booleans"),
    "small integers": ({"attention_mask": ALL.int()}, r"a mask of integers, \(2, 1, 8, 8\), is none"),
    "a bias": ({"attention_mask": ALL * 0.5}, "has numbers besides 0 .* Write it as a pattern with a score line"),
    "two dimensions": ({"attention_mask": ALL[:, 0, 0]}, r"the mask has the shape \(2, 8\); it must be"),
    "rows": ({"attention_mask": ALL[:, :, :5]}, "the mask is of 5 queries and 8 keys; there are 8 and 8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    more, message = REFUSED[name]
    with pytest.raises(attnspec.CallError, match=message):
        layer(**more)


def test_a_mask_that_learns_is_refused() -> None:
    with pytest.raises(attnspec.CallError, match="the mask asks for gradients"):
        layer(attention_mask=torch.zeros(2, 1, 8, 8, requires_grad=True))


def test_models_say_what_they_ask_for() -> None:
    """GPT-2 has dropout of weights while it trains; weights of all pairs are never made."""
    config = transformers.GPT2Config(vocab_size=48, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    model = transformers.GPT2LMHeadModel(config)
    model.set_attn_implementation("attnspec")
    with pytest.raises(attnspec.CallError, match=r"GPT2Attention asks for dropout of weights \(0.1\)"):
        model.train()(ids(1, 5))
    model.eval()(ids(1, 5))
    with pytest.raises(attnspec.CallError, match="output_attentions"):
        model(ids(1, 5), output_attentions=True)


@pytest.mark.slow
def test_a_bias_by_position() -> None:
    """Scores with a bias of heads and pairs, which is learned: T5 has one."""
    q, k, v = torch.randn(3, 2, 4, 9, 8).unbind(0)
    bias = torch.randn(1, 4, 9, 9, requires_grad=True)
    out, _ = attention(nn.Identity(), q, k, v, None, is_causal=False, scaling=1.0, position_bias=bias)
    want = nn.functional.scaled_dot_product_attention(q, k, v, bias, scale=1.0).transpose(1, 2)
    assert torch.allclose(out, want, atol=1e-5)
    weights = torch.randn_like(out)
    ours, theirs = (torch.autograd.grad((t * weights).sum(), bias)[0] for t in (out, want))
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.slow
def test_without_a_mask() -> None:
    """As SDPA: a module that says so is causal, and a single query sees all keys there are."""
    q, k, v = torch.randn(3, 2, 4, 9, 8).unbind(0)
    causal = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    assert torch.allclose(attention(Causal(), q, k, v, None)[0], causal, atol=1e-5)
    last = nn.functional.scaled_dot_product_attention(q[:, :, -1:], k, v).transpose(1, 2)
    assert torch.allclose(attention(Causal(), q[:, :, -1:], k, v, None)[0], last, atol=1e-5)
    with pytest.raises(attnspec.CallError, match="no mask came to Causal, which is causal, with 4 queries and 9 keys"):
        attention(Causal(), q[:, :, -4:], k, v, None)


RIGHT = (torch.arange(20) < torch.tensor([20, 15, 9])[:, None]).long()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Bert", "Roberta", "ModernBert", "DistilBert"])
def test_encoders(name: str) -> None:
    """Every token sees all that is no padding; in ModernBERT some layers see what is near."""
    torch.manual_seed(0)
    more = {"dim": 32, "hidden_dim": 32, "n_heads": 4, "n_layers": 2} if name == "DistilBert" else PLAIN
    if name == "ModernBert":
        more = {**more, "local_attention": 8, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2}
    config = getattr(transformers, f"{name}Config")(**{**more, "vocab_size": 48, "pad_token_id": 0})
    model = getattr(transformers, f"{name}Model")(config).eval()
    eager, ours = both(model, ids(3, 20))
    assert torch.allclose(eager, ours, atol=1e-5)
    eager, ours = both(model, ids(3, 20), attention_mask=RIGHT)
    assert torch.allclose(eager[RIGHT == 1], ours[RIGHT == 1], atol=1e-5)


@pytest.mark.slow
def test_images_see_themselves_both_ways() -> None:
    """Gemma 3 with images of 4 tokens: in a text with padding, and while it goes on, with both kinds of caches."""
    torch.manual_seed(0)
    words, tokens = {"image_token_id": 49, "boi_token_index": 50, "eoi_token_index": 51}, {"num_hidden_layers": 1}
    vision = {"hidden_size": 16, "intermediate_size": 16, **tokens, "num_attention_heads": 2, "image_size": 16}
    config = transformers.Gemma3Config(
        text_config={**PLAIN, **BOTH, "vocab_size": 52},
        vision_config={**vision, "patch_size": 4},
        mm_tokens_per_image=4,
        **words,
    )
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    x, kinds = ids(2, 24), torch.zeros(2, 24, dtype=torch.long)
    for b, start in ((0, 3), (0, 15), (1, 9), (1, 17)):
        x[b, start : start + 4], kinds[b, start : start + 4] = 49, 1
    mask = (torch.arange(24) >= torch.tensor([0, 5])[:, None]).long()
    more = {"pixel_values": torch.randn(4, 3, 16, 16), "token_type_ids": kinds, "attention_mask": mask}
    eager, ours = both(model, x, **more)
    assert torch.allclose(eager[mask == 1], ours[mask == 1], atol=1e-5)
    blind, _ = both(model, x, **{**more, "token_type_ids": torch.zeros_like(kinds)})
    assert not torch.allclose(eager[mask == 1], blind[mask == 1], atol=0.1)
    for options in ({}, {"cache_implementation": "static"}):
        found = []
        for name in ("eager", "attnspec"):
            model.set_attn_implementation(name)
            found.append(model.generate(x, **more, max_new_tokens=12, do_sample=False, pad_token_id=0, **options))
        assert torch.equal(*found)


_SHARED = {"vocab_size": 48, "d_model": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_LAYERS = {
    f"{part}_{what}": number
    for part in ("encoder", "decoder")
    for what, number in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 32))
}
_LENGTHS = {"max_source_positions": 16, "max_target_positions": 64, "num_mel_bins": 8}
_T5 = {"d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
PAIRS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "BART": ("BartForConditionalGeneration", "BartConfig", {**_LAYERS, "forced_eos_token_id": None}),
    "T5": ("T5ForConditionalGeneration", "T5Config", _T5),
    "Whisper": ("WhisperForConditionalGeneration", "WhisperConfig", {**_LAYERS, **_LENGTHS}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_an_encoder_with_a_decoder(name: str) -> None:
    """Queries of the decoder see all of the encoder but its padding; T5 adds a bias by distance, which is learned."""
    model_name, config_name, more = PAIRS[name]
    torch.manual_seed(0)
    config = getattr(transformers, config_name)(**{**_SHARED, "decoder_start_token_id": 2, **more})
    model = getattr(transformers, model_name)(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    given: dict[str, Any] = {"input_ids": ids(3, 20), "attention_mask": RIGHT}
    if name == "Whisper":
        given = {"input_features": torch.randn(3, 8, 32)}
    eager, ours = both(model, **given, decoder_input_ids=ids(3, 7))
    assert torch.allclose(eager, ours, atol=1e-5)
    if name == "Whisper":
        return
    for options in ({}, {"num_beams": 3}):
        found = []
        for implementation in ("eager", "attnspec"):
            model.set_attn_implementation(implementation)
            options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, **options}
            found.append(model.generate(**given, **options))
        assert torch.equal(*found)
