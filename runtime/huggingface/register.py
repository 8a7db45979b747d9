"""A name under which models find our attention: ``attnspec.transformers.register``."""

from __future__ import annotations

from typing import Any

from transformers import AttentionInterface, AttentionMaskInterface

from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.huggingface.choice import Choice, Layers, Sources
from attnspec.runtime.huggingface.layer import patterned
from attnspec.runtime.huggingface.masks import mask
from attnspec.runtime.huggingface.models import check_own_known, check_takes_ours
from attnspec.runtime.huggingface.own import text_config

_REGISTERED: dict[str, Choice] = {}


def register(
    name: str = "attnspec",
    pattern: Sources | None = None,
    *,
    layers: Layers = None,
    restart: bool = True,
    **params: Any,
) -> None:
    """Let models of transformers take their attention from here, ``attn_implementation=name``.

    >>> import torch, transformers
    >>> import attnspec.transformers as hf
    >>> hf.register("attnspec")
    >>> hf.register("attnspec:near", "sinks", start=4, recent=60)
    >>> tiny = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    >>> config = transformers.LlamaConfig(**tiny, vocab_size=64, attn_implementation="attnspec:near")
    >>> model = transformers.LlamaForCausalLM(config)
    >>> model(torch.tensor([[1, 5, 7]])).logits.shape
    torch.Size([1, 3, 64])

    Without a pattern models have the masks that they have, causal, sliding, chunked, of packed documents and images, in
    our kernels. A ``pattern`` takes the place of a layer's mask, also of its window, and is never intersected with it.
    What else a model does with scores stays: its scale (but for a `scale` line, of the pattern or of a branch, and
    products of features), a soft cap, sinks that it learns. ``save_pretrained`` leaves ``name`` out, so
    ``from_pretrained`` has to be given it again. The pattern is a shipped name, a path or text with its parameters
    ``params``, an ``attnspec.Spec`` or what ``attnspec.compile`` returns; a dict of such by type of layers,
    ``{"sliding_attention": .., "full_attention": ..}``; or a function from a layer's number to one (None: the layer
    keeps its own mask). ``layers`` are the types or numbers of the layers that a single pattern is for. Without that it
    is for all of them where they are of one type, and else for those that see everything (``full_attention``): those of
    other types keep their masks.

    Padding, on the left or right, is never seen, and positions count from the first real token. Where documents are
    packed (``position_ids`` that begin anew, without an ``attention_mask``, and with ``use_cache=False``: transformers
    looks for them only then) each sees itself alone, and positions count within it; with ``restart=False`` they go on.
    Positions are those of the pattern's mask and of its score lines. What turns queries and keys is the model's: a
    pattern with `rotate` lines is refused where the model has rotations.

    Raises CallError for a pattern that reads inputs, or has axes, segments or a computed order; for a name that stands
    for another pattern, is not ours, or means something else to transformers (`flash`, `/`, `|`); and in use, for a
    pattern that looks ahead in a decoder, or that changes there with the length `n`, and for what a model asks for and
    this cannot do (dropout while it trains, ``output_attentions``). SpecError for a pattern that is wrong.
    """
    if pattern is None and (layers is not None or params):
        raise CallError("attnspec.transformers: layers and parameters are those of a pattern, and there is none")
    if not name or "flash" in name or "/" in name or "|" in name:
        raise CallError(
            f"attnspec.transformers: {name!r} is no name for an attention: transformers takes names with `flash` for "
            "FlashAttention, and those with `/` or `|` for what is to be downloaded, or paged. Take attnspec:NAME"
        )
    choice = Choice() if pattern is None else Choice.of(pattern, layers, restart, params)
    if _REGISTERED.get(name, choice) != choice:
        raise CallError(f"attnspec.transformers: {name!r} stands for another pattern already: take another name")
    if name not in _REGISTERED and name in {*AttentionInterface._global_mapping, "eager"}:
        raise CallError(f"attnspec.transformers: {name!r} is an attention of somebody else's: take attnspec:NAME")
    _REGISTERED[name] = choice
    AttentionInterface.register(name, patterned(choice))
    AttentionMaskInterface.register(name, mask)


def registered(model: Any) -> Choice:
    """What the attention of a model was registered with. Raises CallError where it is none of ours, or cannot be."""
    config = text_config(model)
    check_takes_ours(config)
    choice = _REGISTERED.get(config._attn_implementation)
    if choice is None:
        raise CallError(
            f"attnspec.transformers: the attention of {type(model).__name__} is {config._attn_implementation!r}: call "
            'attnspec.transformers.register("attnspec") and model.set_attn_implementation("attnspec") first'
        )
    return choice


def choice_of(model: Any) -> Choice:
    """The same, of a model with any attention: where it is none of ours layers have their own masks."""
    config = text_config(model)
    choice = _REGISTERED.get(config._attn_implementation)
    if choice is None:
        check_own_known(config)
        return Choice()
    check_takes_ours(config)
    return choice
