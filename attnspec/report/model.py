"""What a model of transformers costs, layer by layer: ``attnspec.transformers.report``."""

from __future__ import annotations

from typing import Any

from attnspec.relation.sizes import Sizes
from attnspec.report.layers import Report, layers
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.huggingface.layer import crosses
from attnspec.runtime.huggingface.own import own_pattern, text_config
from attnspec.runtime.huggingface.pattern import Pattern
from attnspec.runtime.huggingface.register import choice_of


def report(model: Any, *, n: int, batch: int = 1) -> Report:
    """What the attention of each layer computes over n tokens, and what a cache of it keeps, before anything runs.

    >>> import transformers
    >>> import attnspec.transformers as hf
    >>> hf.register("attnspec:near", "sinks", start=4, recent=60)
    >>> tiny = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    >>> config = transformers.LlamaConfig(**tiny, vocab_size=64, attn_implementation="attnspec:near")
    >>> print(hf.report(transformers.LlamaForCausalLM(config), n=8192))
    LlamaForCausalLM  2 layers, 4 heads, dim 8, float32, n = 8,192, batch 1
    layers  attends by                 live pairs    forward    backward    cache  of all keys  keeps
    0-1     sinks(start=4, recent=60)      0.778%  533 MFLOP  1.33 GFLOP  32.3 kB         0.8%  ring of 59 + 4 fixed

    Of a model whose attention is not ours it says what its own masks are; of an encoder with a decoder those of the
    decoder. ``.layers`` hold the figures of layers that attend alike: ``.cost`` (:meth:`attnspec.Attention.cost`) and
    bytes of one layer; ``.flops`` and ``.cache`` are those of all. The cache is :func:`attnspec.transformers.cache`,
    which has some room besides.

    Raises CallError for layers that keep something other than keys, for models that compute attention themselves, so
    that ours cannot be in them or their masks are not known, and for sizes that are none.
    """
    for name, number in (("n", n), ("batch", batch)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise CallError(f"attnspec.transformers: {name} is a whole number from 1 on, not {number!r}")
    config, causal = text_config(model), _causal(model)
    found: dict[tuple[Pattern, bool, Sizes, tuple[int, int]], list[int]] = {}
    for number, registered in enumerate(choice_of(model).of_layers(config)):
        of_layer = _config_of(config, number)
        heads = of_layer.num_attention_heads
        sizes = Sizes(n, n, heads, getattr(of_layer, "num_key_value_heads", None) or heads, batch)
        dim = getattr(of_layer, "head_dim", None) or of_layer.hidden_size // heads
        dims = getattr(of_layer, "qk_head_dim", None) or dim, getattr(of_layer, "v_head_dim", None) or dim
        pattern = registered or own_pattern(config, number, causal)
        found.setdefault((pattern, registered is None, sizes, dims), []).append(number)
    made = tuple(
        layers(pattern.attention(), str(pattern), own, numbers, sizes, dims, model.dtype)
        for (pattern, own, sizes, dims), numbers in found.items()
    )
    return Report(type(model).__name__, str(model.dtype).removeprefix("torch."), n, batch, made)


def _causal(model: Any) -> bool:
    """Whether queries see no later keys: as all of its layers say, but those that attend to another sequence."""
    kind = type(text_config(model))
    layers = [module for module in model.modules() if isinstance(getattr(module, "config", None), kind)]
    said = {getattr(module, "is_causal", None) for module in layers if not crosses(module)} & {True, False}
    return getattr(model.config, "is_encoder_decoder", False) or said != {False}


def _config_of(config: Any, number: int) -> Any:
    """What the config says of a layer, where layers differ."""
    each = getattr(config, "per_layer_config", None)
    return config if each is None else each[number]
