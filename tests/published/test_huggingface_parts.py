"""Models of which attention is only a part, or of several kinds: a pattern is for what attends to its own sequence."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import attnspec
import attnspec.transformers as hf
from attnspec.runtime.huggingface.models import _WITH_MASKS
from tests.published.patterns import SPECS, dense, spec_of
from tests.published.tiny import PLAIN, WORDS, ids
from tests.support.marks import slow

WINDOW = SPECS["window"][1]
hf.register(WINDOW, "window", width=5)
_SIZES = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_GPT2 = {"vocab_size": WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_HEADS = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
_LAYERS = {"encoder_layers": 1, "decoder_layers": 2}
_HYBRID = {**PLAIN, "layer_types": ["conv", "full_attention"]}


def _lfm2() -> Any:
    return transformers.Lfm2ForCausalLM(transformers.Lfm2Config(**_HYBRID))


def _gpt2() -> Any:
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**_GPT2, add_cross_attention=True))


def _bert() -> Any:
    bert = transformers.BertConfig(**_SIZES, intermediate_size=32, is_decoder=True, add_cross_attention=True)
    return transformers.BertLMHeadModel(bert)


def _bart() -> Any:
    return transformers.BartForCausalLM(transformers.BartConfig(vocab_size=WORDS, d_model=32, **_HEADS, **_LAYERS))


@pytest.mark.parametrize("make", [_gpt2, *map(slow, [_bert, _bart])])
def test_attention_to_another_sequence(make: Callable[[], Any]) -> None:
    """A decoder sees all of the encoder's, as many as its own tokens or more, whatever pattern its own are seen by."""
    torch.manual_seed(0)
    model = make().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    for length in (20, 27):
        there = torch.ones(2, length, dtype=torch.long)
        there[1, 15:] = 0
        given = {"encoder_hidden_states": torch.randn(2, length, 32), "encoder_attention_mask": there}
        found = []
        for way in ("eager", WINDOW):
            model.set_attn_implementation(way)
            mask = dense(spec_of("window"), torch.ones(2, 20)) if way == "eager" else None
            with torch.no_grad():
                found.append(model(input_ids=ids(2, 20), attention_mask=mask, use_cache=False, **given).logits)
        torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


def test_layers_that_do_not_attend() -> None:
    """They have no pattern, and a cache of keys is none of theirs: that is said before anything runs."""
    model = _lfm2()
    model.set_attn_implementation(WINDOW)
    for ask in (lambda: hf.report(model, n=64), lambda: hf.cache(model)):
        with pytest.raises(
            attnspec.CallError, match="layer 0 is of type 'conv', which keeps something other than keys"
        ):
            ask()
    hf.register("attnspec:conv", "window", layers=0, width=5)
    model.set_attn_implementation("attnspec:conv")
    with pytest.raises(attnspec.CallError, match="no layer that attends is '0'"):
        model(ids(1, 8))


def test_a_part_with_an_attention_of_its_own() -> None:
    """Of a model of images and text the part that writes text is what is reported, and has a cache."""
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Gemma3Config(
        text_config={**PLAIN, "head_dim": 8, "layer_types": ["full_attention"] * 2},
        vision_config={**vision, "image_size": 28, "patch_size": 14},
    )
    model = transformers.Gemma3ForConditionalGeneration(config)
    model.set_attn_implementation({"text_config": WINDOW})
    assert [layers.kept for layers in hf.report(model, n=64).layers] == ["ring of 4"]
    assert str(hf.cache(model).layers[0].pattern) == "window(width=5)"
    model.set_attn_implementation({"": WINDOW, "text_config": "eager"})
    assert all(layers.own for layers in hf.report(model, n=64).layers)
    with pytest.raises(attnspec.CallError, match="the attention of Gemma3ForConditionalGeneration is 'eager'"):
        hf.cache(model)


_WORDS = {"vocab_size": WORDS}
_OWN: dict[str, tuple[str, dict[str, Any]]] = {
    "XLNetLMHeadModel": ("XLNet", {**_WORDS, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 32}),
    "OpenAIGPTLMHeadModel": ("OpenAIGPT", {**_WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4}),
    "BloomForCausalLM": ("Bloom", {**_WORDS, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "MptForCausalLM": ("Mpt", {**_WORDS, "d_model": 32, "n_heads": 4, "n_layers": 2}),
    "DogeForCausalLM": ("Doge", PLAIN),
    "FalconForCausalLM": ("Falcon", {**_WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}),
}


@pytest.mark.parametrize("name", ["XLNetLMHeadModel", "BloomForCausalLM", *map(slow, list(_OWN)[1::2])])
def test_models_that_compute_attention_themselves(name: str) -> None:
    """A name of ours in their config has no effect, or their masks are no numbers to add: neither is without a word."""
    short, sizes = _OWN[name]
    model = getattr(transformers, name)(getattr(transformers, f"{short}Config")(**sizes)).eval()
    model.config._attn_implementation = WINDOW
    said = f"{short} computes {'with its mask' if short == 'Doge' else 'its attention'} itself"
    asked: list[Callable[[], Any]] = [lambda: hf.report(model, n=64), lambda: hf.cache(model)]
    if short not in ("XLNet", "OpenAIGPT"):  # which nobody can tell before
        asked.append(lambda: model(ids(1, 4)))
    for ask in asked:
        with pytest.raises(attnspec.CallError, match=re.escape(said)):
            ask()
    model.config._attn_implementation = "eager"
    with pytest.raises(attnspec.CallError, match=re.escape(said)):
        hf.cache(model)


@pytest.mark.parametrize("name", sorted(_WITH_MASKS))
def test_models_that_compute_with_their_masks(name: str) -> None:
    """Those that are said to do it do."""
    files = list(Path(transformers.__file__).parent.glob(f"models/{name}/modeling_*.py"))
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    assert not text or "attention_mask.dtype == torch.bool" in text or "_scores + attention_mask" in text
