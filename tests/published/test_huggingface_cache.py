"""Caches that keep what a pattern can still see: tokens are those of recomputing everything, and memory is bounded."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import attnspec
import attnspec.transformers as hf
from tests.published.patterns import SPECS, recomputed, spec_of
from tests.published.tiny import DECODERS, PLAIN, decoder, ids
from tests.support.marks import slow

hf.register("attnspec")
for shipped, name, params in SPECS.values():
    hf.register(name, shipped, **params)
LEFT = torch.ones(3, 20, dtype=torch.long)
LEFT[1, :5] = LEFT[2, :11] = 0
GREEDY = {"attention_mask": LEFT, "max_new_tokens": 25, "do_sample": False, "pad_token_id": 0}


def model_of(name: str, implementation: str) -> Any:
    model = decoder(name)
    model.set_attn_implementation(implementation)
    return model


@pytest.mark.parametrize("pattern", ["sinks", *map(slow, ["dilated", "window"])])
@pytest.mark.parametrize("name", ["Llama", *map(slow, ["Mistral", "GPT-2"])])
def test_tokens(name: str, pattern: str) -> None:
    """Of a batch that is padded on the left, one entry by itself, and beams, which change places."""
    implementation = SPECS[pattern][1]
    expected = recomputed(decoder(name), spec_of(pattern), ids(3, 20), LEFT, 25)
    model = model_of(name, implementation)
    kept = hf.cache(model)
    assert torch.equal(model.generate(ids(3, 20), past_key_values=kept, **GREEDY), expected)
    assert [len(layer.groups) for layer in kept.layers] == [3, 3]
    alone = model.generate(ids(3, 20)[:1], past_key_values=hf.cache(model), **{**GREEDY, "attention_mask": LEFT[:1]})
    assert torch.equal(alone, expected[:1])
    if name == "Mistral":
        return  # its own cache drops what the pattern sees, so that there is nothing to compare beams with
    beams = {**GREEDY, "num_beams": 3}
    whole = model.generate(ids(3, 20), **beams)
    assert torch.equal(model.generate(ids(3, 20), past_key_values=hf.cache(model), **beams), whole)


@pytest.mark.parametrize("pattern", ["sinks", *map(slow, ["dilated", "window"])])
def test_memory_does_not_grow(pattern: str) -> None:
    """From the first step on, after a prompt that is longer than what is kept."""
    model = model_of("Llama", SPECS[pattern][1])
    kept, step, found = hf.cache(model), ids(2, 60), []
    with torch.no_grad():
        for _ in range(60):
            step = model(step, past_key_values=kept, use_cache=True).logits[:, -1:].argmax(-1)
            found.append(kept.bytes)
    assert kept.get_seq_length() == 119
    assert len({*found}) == 1
    assert (
        found[0] < 2 * 2 * 2 * 2 * 40 * 8 * 4
    )  # layers, keys and values, batch entries, heads, positions, dim, float32


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
def test_own_masks(name: str) -> None:
    """Of models with their own masks: layers that see a window or a chunk keep no more."""
    model = model_of(name, "attnspec")
    expected = model.generate(ids(3, 20), **GREEDY)
    kept = hf.cache(model)
    assert torch.equal(model.generate(ids(3, 20), past_key_values=kept, **GREEDY), expected)
    config, said = model.config, repr(kept)
    near = getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None)
    assert ("ring of 7" in said) == (near == 8), said


@pytest.mark.slow
def test_sampling_and_pieces() -> None:
    """Sampled tokens; a prompt in pieces, the first of which is all padding in one entry; another after a reset."""
    model = model_of("Llama", "attnspec:few-sinks")
    found = []
    for more in ({}, {"past_key_values": hf.cache(model)}):
        torch.manual_seed(0)
        found.append(model.generate(ids(3, 20), **{**GREEDY, "do_sample": True}, **more))
    assert torch.equal(*found)
    with torch.no_grad():
        whole = model(ids(3, 20), attention_mask=LEFT).logits
        kept = hf.cache(model)
        for _ in range(2):
            for low, high in ((0, 8), (8, 9), (9, 20)):
                given = {"attention_mask": LEFT[:, :high], "past_key_values": kept, "use_cache": True}
                positions = (LEFT.cumsum(1) - 1).clamp(0)[:, low:high]
                piece = model(ids(3, 20)[:, low:high], position_ids=positions, **given).logits
                real = LEFT[:, low:high] == 1
                positions = (LEFT.cumsum(1) - 1).clamp(0)
                whole = model(ids(3, 20), attention_mask=LEFT, position_ids=positions).logits
                torch.testing.assert_close(piece[real], whole[:, low:high][real], atol=1e-5, rtol=1e-5)
            kept.reset()
            assert kept.bytes == kept.get_seq_length() == 0


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["linear", "linear_window", "lolcats"])
def test_states(pattern: str) -> None:
    """Where weights are products of features a state takes the place of keys."""
    hf.register(f"attnspec:{pattern}", pattern)
    model = model_of("Llama", f"attnspec:{pattern}")
    ours = model.generate(ids(3, 20), past_key_values=(kept := hf.cache(model)), **GREEDY)
    step, mask = ids(3, 20), LEFT
    for _ in range(25):
        positions = (mask.cumsum(1) - 1).clamp(0)
        with torch.no_grad():
            logits = model(step, attention_mask=mask, position_ids=positions, use_cache=False).logits
        step = torch.cat([step, logits[:, -1:].argmax(-1)], 1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    assert torch.equal(ours, step)
    assert "every key" not in repr(kept)


def test_batch_entries_change_places() -> None:
    """Also between entries with unlike padding, and to more or fewer of them."""
    model = model_of("Llama", "attnspec:few-sinks")
    mask, step = LEFT, ids(3, 24)
    with torch.no_grad():
        kept = hf.cache(model)
        positions = (mask.cumsum(1) - 1).clamp(0)
        model(step[:, :20], attention_mask=mask, past_key_values=kept, position_ids=positions)
        for change in (
            lambda: kept.reorder_cache(torch.tensor([2, 0, 2])),
            lambda: kept.batch_repeat_interleave(2),
            lambda: kept.batch_select_indices(torch.tensor([1, 4, 5])),
        ):
            change()
        mask = torch.cat([LEFT[[2, 2, 2]], torch.ones(3, 4, dtype=torch.long)], 1)
        tokens = torch.cat([step[[2, 2, 2], :20], step[:, 20:]], 1)
        positions = (mask.cumsum(1) - 1).clamp(0)
        whole = model(tokens, attention_mask=mask, position_ids=positions).logits[:, 20:]
        given = {"attention_mask": mask, "past_key_values": kept, "position_ids": positions[:, 20:]}
        found = model(step[:, 20:], **given).logits
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)


def asked(model: Any, **more: Any) -> Tensor:
    given = {"past_key_values": hf.cache(model), "use_cache": True, **more}
    found: Tensor = model(ids(3, 20), **given).logits
    return found


def test_what_cannot_be_kept() -> None:
    model = model_of("Llama", "attnspec:few-sinks")
    with pytest.raises(attnspec.CallError, match="ends with padding"), torch.no_grad():
        asked(model, attention_mask=LEFT.flip(1))
    holes = LEFT.clone()
    holes[0, 7] = 0
    with pytest.raises(attnspec.CallError, match="padding between its tokens"), torch.no_grad():
        asked(model, attention_mask=holes)
    with pytest.raises(attnspec.CallError, match="asks for gradients"):
        asked(model)
    kept = hf.cache(model)
    with torch.no_grad():
        model(ids(3, 20), attention_mask=LEFT, past_key_values=kept, use_cache=True)
        with pytest.raises(attnspec.CallError, match="give the attention_mask of all tokens"):
            model(ids(3, 1), past_key_values=kept, use_cache=True)
    kept = hf.cache(model)
    with torch.no_grad():
        model(ids(1, 4), past_key_values=kept, use_cache=True)
        with pytest.raises(attnspec.CallError, match=r"3 batch entries, and the cache is of 1: call cache.reset\(\)"):
            model(ids(3, 1), past_key_values=kept, use_cache=True)
    with pytest.raises(attnspec.CallError, match="cannot go back 2 tokens"):
        kept.crop(-2)
    model.set_attn_implementation("sdpa")
    with pytest.raises(attnspec.CallError, match=re.escape("is 'sdpa': call attnspec.transformers.register")):
        hf.cache(model)
    kept = hf.cache(model_of("Llama", "attnspec:few-sinks"))
    with torch.no_grad():
        model(ids(3, 20), past_key_values=kept, use_cache=True)
        with pytest.raises(attnspec.CallError, match="nothing attended to the last keys"):
            model(ids(3, 1), past_key_values=kept, use_cache=True)


def test_of_another_attention() -> None:
    """It would take the latest keys for all there are, and give other logits without a word. One can go back."""
    model = model_of("Llama", "attnspec:few-sinks")
    kept = hf.cache(model)
    with torch.no_grad():
        whole = model(ids(1, 20), use_cache=False).logits
        model(ids(1, 20)[:, :16], past_key_values=kept, use_cache=True)
        for now in ("sdpa", "eager"):
            model.set_attn_implementation(now)
            with pytest.raises(attnspec.CallError, match=f"is '{now}' now, .* to go on with them, or cache.reset"):
                model(ids(1, 20)[:, 16:], past_key_values=kept, use_cache=True)
        model.set_attn_implementation("attnspec:few-sinks")
        found = model(ids(1, 20)[:, 16:], past_key_values=kept, use_cache=True).logits
    torch.testing.assert_close(found, whole[:, 16:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("made_for", ["attnspec:few-sinks", "attnspec"])
def test_of_another_pattern(made_for: str) -> None:
    """A cache that was made before a model was given another pattern, or its own mask again."""
    model = model_of("Llama", made_for)
    kept = hf.cache(model)
    for now in {"attnspec:few-sinks", "attnspec", "attnspec:window"} - {made_for}:
        model.set_attn_implementation(now)
        with pytest.raises(attnspec.CallError, match=r"its cache was made for (sinks\(|its own mask)"), torch.no_grad():
            model(ids(1, 4), past_key_values=kept, use_cache=True)
        kept.reset()


def test_of_another_model() -> None:
    """Empty it serves every model with the same patterns; with tokens only the one that they are of."""
    first, second = (model_of("Llama", "attnspec:few-sinks") for _ in range(2))
    torch.nn.init.normal_(second.lm_head.weight)
    wide = {**PLAIN, "num_key_value_heads": 4, "head_dim": 16}
    third = transformers.LlamaForCausalLM(transformers.LlamaConfig(**wide)).to(torch.bfloat16).eval()
    third.set_attn_implementation("attnspec:few-sinks")
    kept = hf.cache(first)
    for model in (third, second, first):
        expected = model.generate(ids(3, 20), past_key_values=hf.cache(model), **GREEDY)
        if model is second:
            assert torch.equal(expected, recomputed(model, spec_of("sinks"), ids(3, 20), LEFT, 25))
            model.set_attn_implementation("attnspec:few-sinks")
        assert torch.equal(model.generate(ids(3, 20), past_key_values=kept, **GREEDY), expected)
        kept.reset()
    first.generate(ids(1, 4), past_key_values=kept, max_new_tokens=3, do_sample=False)
    again = copy.deepcopy(kept)
    with pytest.raises(attnspec.CallError, match="a cache cannot be saved with its tokens"):
        pickle.dumps(kept)
    for model in (second, third):
        with pytest.raises(attnspec.CallError, match="tokens in this cache are of a LlamaAttention of another model"):
            model.generate(ids(1, 9), past_key_values=kept, max_new_tokens=2, do_sample=False)
        with pytest.raises(attnspec.CallError, match=r"that call was refused, .* Call cache.reset\(\)"):
            first.generate(ids(1, 9), past_key_values=kept, max_new_tokens=2, do_sample=False)
        kept = copy.deepcopy(again)
    found = [first.generate(ids(1, 9), past_key_values=one, max_new_tokens=2, do_sample=False) for one in (kept, again)]
    assert torch.equal(*found)


def test_of_a_model_with_another_window_or_other_layers() -> None:
    """Its layers' own masks have the same name and not the same width."""
    kept = hf.cache(model_of("Mistral", "attnspec"))
    for more, said in (
        ({"sliding_window": 16}, r"by its own mask, window\(width=16\), and its cache was made for window\(width=8\)"),
        ({"sliding_window": 8, "num_hidden_layers": 3}, "is one of 3 layers, and its cache was made for a model of 2"),
    ):
        other = transformers.MistralForCausalLM(transformers.MistralConfig(**{**PLAIN, **more})).eval()
        other.set_attn_implementation("attnspec")
        with pytest.raises(attnspec.CallError, match=said), torch.no_grad():
            other(ids(1, 20), past_key_values=kept, use_cache=True)
        kept.reset()


def test_a_prompt_that_is_no_longer_than_what_is_there() -> None:
    """It is taken for what the cache begins with; after a reset it is another."""
    model = model_of("Llama", "attnspec:few-sinks")
    kept = hf.cache(model)
    given = {"max_new_tokens": 3, "do_sample": False, "past_key_values": kept}
    model.generate(ids(1, 20), **given)
    with pytest.raises(attnspec.CallError, match=r"cache holds 22 tokens, .* For another prompt call cache.reset\(\)"):
        model.generate(ids(1, 7), **given)
    kept.reset()
    expected = model.generate(ids(1, 7), **{**given, "past_key_values": hf.cache(model)})
    assert torch.equal(model.generate(ids(1, 7), **given), expected)


def test_an_own_mask_that_is_more() -> None:
    """A mask that is more than the type of a layer says is refused, also at a later turn."""
    model = model_of("Llama", "attnspec")
    kept = hf.cache(model)
    with torch.no_grad():
        model(ids(1, 4), past_key_values=kept, use_cache=True)
        more = transformers.masking_utils.create_causal_mask(
            model.config, torch.zeros(1, 4, 32), None, kept, or_mask_function=lambda b, h, q, k: k < 3
        )
        with pytest.raises(attnspec.CallError, match="mask of layer 0 is more than its type says"):
            model(ids(1, 4), attention_mask=more, past_key_values=kept, use_cache=True)


def test_what_it_is_for() -> None:
    """A pattern that is said must be the one that the model has."""
    model = model_of("Llama", "attnspec:few-sinks")
    assert repr(hf.cache(model, attnspec.compile("sinks", start=2, recent=6))) == repr(hf.cache(model))
    with pytest.raises(
        attnspec.CallError, match=re.escape("layer 0 of LlamaForCausalLM attends by sinks(start=2, rec")
    ):
        hf.cache(model, "causal")
    encoders = transformers.T5Config(vocab_size=48, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=4)
    seq2seq = transformers.T5ForConditionalGeneration(encoders)
    seq2seq.config._attn_implementation = "attnspec"
    with pytest.raises(attnspec.CallError, match="has an encoder"):
        hf.cache(seq2seq)
