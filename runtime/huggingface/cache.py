"""A bounded cache for a model: ``attnspec.transformers.cache``."""

from __future__ import annotations

from typing import Any

from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.huggingface.bounded import Bounded, Layer
from attnspec.runtime.huggingface.choice import Choice, Sources
from attnspec.runtime.huggingface.layer import check_model
from attnspec.runtime.huggingface.own import own_pattern, text_config
from attnspec.runtime.huggingface.register import registered
from attnspec.runtime.huggingface.standing import standing


def cache(model: Any, pattern: Sources | None = None) -> Bounded:
    """A cache for ``generate`` of which each layer keeps what its pattern can still see, and drops the rest.

    >>> import torch, transformers
    >>> import attnspec.transformers as hf
    >>> hf.register("attnspec:near", "sinks", start=4, recent=60)
    >>> tiny = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    >>> config = transformers.LlamaConfig(**tiny, vocab_size=64, eos_token_id=None, attn_implementation="attnspec:near")
    >>> model = transformers.LlamaForCausalLM(config).eval()
    >>> kept = hf.cache(model)
    >>> ids = model.generate(torch.tensor([[1, 5, 7]]), past_key_values=kept, max_new_tokens=200, do_sample=False)
    >>> kept
    Bounded(2 layers, 202 tokens, 43 kB; sinks(start=4, recent=60): ring of 59 + 4 fixed)

    What is kept is that of :class:`attnspec.Cache`: fixed positions and a ring for windows with sinks, a state where
    weights are products of features, every key where nothing can be dropped. Tokens are those that recomputing with
    the whole mask gives. Beams are reordered. Of a batch that is padded on the left, entries with as much padding are
    kept together, and there is a call for each such group. ``pattern`` says which pattern is meant, and must be the
    one that the model has.

    A prompt that is given with a cache that holds tokens is taken to begin with them, as in a chat; ``kept.reset()``
    forgets them. An empty cache serves any model whose layers have the same patterns, one that holds tokens the model
    that they are of.

    Raises CallError where the model's attention is none of ours, or of another pattern; where layers keep something
    beside keys, or share them; and in use for another model, for padding that is not before all tokens, for gradients,
    for a prompt of which nothing is new, and where a cache is to go back (assisted generation).
    """
    choice, config = registered(model), text_config(model)
    name = type(model).__name__
    if getattr(config, "is_encoder_decoder", False):
        raise CallError(f"attnspec.transformers: {name} has an encoder, and a cache is of decoders alone")
    if getattr(config, "num_kv_shared_layers", None) or getattr(config, "kv_sharing_modes", None):
        raise CallError(f"attnspec.transformers: layers of {name} share their keys: generate with a DynamicCache")
    if any(hasattr(module, "expand_kv") for module in model.modules()):  # (multi-head latent attention)
        raise CallError(
            f"attnspec.transformers: {name} keeps latents in its cache and makes keys of all of them at each step: "
            "generate with a DynamicCache"
        )
    of_layers = choice.of_layers(config)
    if pattern is not None:
        wanted = Choice.of(pattern, None, True, {}).of_layers(config)
        for number, (asked, has) in enumerate(zip(wanted, of_layers, strict=True)):
            if asked is not None and (has is None or asked.text != has.text):
                raise CallError(
                    f"attnspec.transformers: layer {number} of {name} attends by {has or 'its own mask'}, and the "
                    f"cache was asked for {asked}: register that, and call model.set_attn_implementation(...)"
                )
    layers = []
    for number, found in enumerate(of_layers):
        if found is not None:
            check_model(standing(found), config)
        layers.append(Layer(found or own_pattern(config, number), found is None, len(of_layers)))
    return Bounded(layers=layers)
