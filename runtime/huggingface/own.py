"""The masks that a model's config says its layers have, as patterns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import masking_utils as made

from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.huggingface.choice import layer_types
from attnspec.runtime.huggingface.masks import mask
from attnspec.runtime.huggingface.pattern import Pattern
from attnspec.runtime.huggingface.standin import keys_of, unpacked


def text_config(model: Any) -> Any:
    """The config of the part of a model that decodes text. Raises CallError for what is no model of transformers."""
    if not hasattr(model, "config"):
        raise CallError(
            f"attnspec.transformers: {type(model).__name__} has no config, as models of transformers do: if one is in "
            "it, give that"
        )
    return model.config.get_text_config(decoder=True)


def own_pattern(config: Any, number: int, causal: bool = True) -> Pattern:
    """The pattern of a layer's own mask. Raises CallError for a layer that does not attend to keys.

    With ``causal`` a query sees no later keys, unless the config says otherwise.
    """
    kind, causal = layer_types(config)[number], causal and getattr(config, "is_causal", True)
    match kind:
        case "full_attention":
            return Pattern.of("causal" if causal else "dense", {}, True)
        case "sliding_attention" if causal:
            width = config.window_size if getattr(config, "model_type", "") == "gpt_neo" else config.sliding_window
            return Pattern.of("window", {"width": width}, True)
        case "sliding_attention":
            how = "<" if getattr(config, "use_bidirectional_attention", None) else "<="  # Gemma's, and all others'
            text = f"attention near(width = 1) {{ attend |q - k| {how} width }}"
            return Pattern.of(text, {"width": config.sliding_window}, True)
        case "chunked_attention" if causal:
            return Pattern.of("chunked", {"size": config.attention_chunk_size}, True)
    raise CallError(f"attnspec.transformers: layer {number} is of type {kind!r}, which keeps something other than keys")


def check_own(config: Any, number: int, given: Tensor) -> None:
    """Raises CallError where the mask that came to a layer is not :func:`own_pattern`, but for padding."""
    kind = layer_types(config)[number]
    zero = torch.zeros(1, dtype=torch.long)
    function: Any = made.causal_mask_function
    if kind == "sliding_attention":
        function = made.sliding_window_causal_mask_function(config.sliding_window)
    elif kind == "chunked_attention":
        function = made.chunked_causal_mask_function(config.attention_chunk_size, zero)
    expected = mask(batch_size=1, q_length=1, kv_length=1, mask_function=function)
    structure, numbers = unpacked(expected, 1, 1)
    found, values = unpacked(given, given.shape[0], keys_of(given))
    same = replace(found, shifted=structure.shifted) == structure and all(
        name.startswith("chunk_start") or bool((values[name] == numbers[name]).all()) for name in structure.numbers
    )
    if not same:
        raise CallError(
            f"attnspec.transformers: the mask of layer {number} is more than its type says ({kind}): generate with a "
            "DynamicCache, transformers' own"
        )
