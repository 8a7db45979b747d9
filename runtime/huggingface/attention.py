"""The attention of a layer of transformers: an interface of attention, which calls one of ours."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import output_capturing

from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.huggingface.programs import NO_MASK, Wanted, program
from attnspec.runtime.huggingface.standin import PLACES, Structure, is_standin, unpacked
from attnspec.runtime.huggingface.step import seen

_HARMLESS = frozenset(
    {
        "cache",
        "cache_position",
        "logits_to_keep",
        "max_length_k",
        "max_length_q",
        "num_items_in_batch",
        "output_hidden_states",
        "output_router_logits",
        "past_key_value",
        "past_key_values",
        "position_ids",
        "return_dict",
        "seq_idx",
        "use_cache",
    }
)
"""Arguments that models pass on to their layers, and that say nothing of the attention that its mask does not."""


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention of query (batch, heads, rows, dim) to key and value (batch, kv_heads, keys, dim), as a layer wants it.

    That is (batch, rows, heads, dim). ``attention_mask`` is a stand-in, a mask of booleans (or 0 and minus infinity),
    (batch or 1, heads or 1, rows, keys), or None where the model makes none. Raises CallError for what cannot be
    honoured.
    """
    refuse(module, dropout, more)
    batch, _, rows, _ = query.shape
    keys = key.shape[2]
    if attention_mask is None:
        structure = _bare(module, rows, keys, is_causal, sliding_window)
        inputs = _places(batch, keys, query.device)
    elif is_standin(attention_mask):
        cut = seen(attention_mask, batch, keys) if rows == 1 and position_bias is None else None
        if cut is not None:
            structure, inputs, key, value = NO_MASK, {}, key[:, :, cut], value[:, :, cut]
        else:
            known, inputs = unpacked(attention_mask, batch, keys)
            # A size that torch.compile takes for one that varies is no constant to it.
            structure = known.number if torch.compiler.is_compiling() else attention_mask.shape[1]
    else:
        structure, inputs = _given(attention_mask, query, keys)
    if s_aux is not None:
        inputs["sinks"] = s_aux
    if position_bias is not None:
        inputs["bias"] = position_bias.expand(batch, query.shape[1], rows, keys)
    attend = program(Wanted(structure, softcap, s_aux is not None, position_bias is not None))
    out = attend(query, key, value, scale=scaling, inputs=inputs or None)
    return out.transpose(1, 2).contiguous(), None


def refuse(module: nn.Module, dropout: float, more: dict[str, Any]) -> None:
    """Raises CallError for what is asked of a layer besides, and is not there."""
    if dropout:
        raise CallError(
            f"attnspec.transformers: {type(module).__name__} asks for dropout of weights ({dropout}), which there is "
            "not: set attention_dropout (attn_pdrop, attention_probs_dropout_prob) to 0 in the model's config, or call "
            "model.eval()"
        )
    if more.get("output_attentions") or any(name.endswith("attentions") for name in _collected()):
        raise CallError(
            "attnspec.transformers: output_attentions asks for the weights of all pairs, which are never made: load "
            'the model with attn_implementation="eager" for them'
        )
    for name, value in more.items():
        if value is None or value is False or name in _HARMLESS:
            continue
        if name == "head_mask":
            raise CallError("attnspec.transformers: there is no head_mask: multiply the output of the layer by it")
        if name in ("cu_seq_lens_q", "cu_seq_lens_k"):
            raise CallError(
                f"attnspec.transformers: {name} is for FlashAttention: give position_ids that begin anew in each "
                "document, and no more"
            )
        raise CallError(f"attnspec.transformers: {type(module).__name__} hands over `{name}`, which is not known here")


def _collected() -> Collection[str]:
    """What a model gathers from its layers while it runs: not all hand on that weights are asked for."""
    collector = getattr(output_capturing, "_active_collector", None)
    return () if collector is None else collector.get() or ()


def _bare(module: nn.Module, rows: int, keys: int, is_causal: bool | None, window: int | None) -> int:
    """Where a model makes no mask: all pairs, or the causal ones of as many queries as keys, as in PyTorch's SDPA."""
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", None)
    name = type(module).__name__
    if window is not None:
        raise CallError(f"attnspec.transformers: {name} has a window of {window} keys, and no mask came with it")
    if causal is None and rows > 1:
        raise CallError(
            f"attnspec.transformers: no mask came to {name}, and it does not say whether it is causal (is_causal)"
        )
    if causal and rows not in (1, keys):
        raise CallError(
            f"attnspec.transformers: no mask came to {name}, which is causal, with {rows} queries and {keys} keys"
        )
    return _CAUSAL if causal and rows > 1 else _EVERY


def _places(batch: int, keys: int, device: torch.device) -> dict[str, Tensor]:
    """Queries and keys from the first position on, without padding."""
    numbers = zip(PLACES, (0, 0, 0, keys), strict=True)
    return {name: torch.full((batch,), number, dtype=torch.int32, device=device) for name, number in numbers}


_CAUSAL, _EVERY = Structure("k <= q").number, Structure().number


def _given(mask: Tensor, query: Tensor, keys: int) -> tuple[int, dict[str, Tensor]]:
    """A mask of every pair that the user made. Raises CallError for one that is no mask."""
    (batch, heads, rows, _), device = query.shape, query.device
    if mask.dim() != 4 or mask.shape[0] not in (1, batch) or mask.shape[1] not in (1, heads):
        raise CallError(
            f"attnspec.transformers: the mask has the shape {tuple(mask.shape)}; it must be (batch or 1, heads or 1, "
            f"queries, keys), here {(batch, heads, rows, keys)}"
        )
    if mask.shape[2] != rows or mask.shape[3] < keys:
        raise CallError(
            f"attnspec.transformers: the mask is of {mask.shape[2]} queries and {mask.shape[3]} keys; there are {rows} "
            f"and {keys}"
        )
    mask = mask[..., :keys]
    if mask.is_floating_point():
        mask = _of_numbers(mask)
    elif mask.dtype is not torch.bool:
        raise CallError(
            f"attnspec.transformers: the mask is {mask.dtype}: give one of booleans, True where a query sees a key"
        )
    warnings.warn(
        f"attnspec.transformers: a mask of 4 dimensions is read pair by pair, {rows} x {keys} of them for each batch "
        "entry: memory and time grow with their product. Say as a pattern what it means, with register(name, pattern)",
        stacklevel=2,
    )
    sizes = [
        size for size, all_alike in (("batch", mask.shape[0] == 1), ("heads", mask.shape[1] == 1)) if not all_alike
    ]
    at = [{"batch": "b", "heads": "h"}[size] for size in sizes]
    dims = tuple(dim for dim in (0, 1) if mask.shape[dim] == 1)
    lines = (
        f"input seen: bool[{', '.join([*sizes, 'n_q', 'n'])}]",
        f"attend seen[{', '.join([*at, 'q', 'k'])}]",
    )
    inputs = _places(batch, keys, device)
    inputs["seen"] = mask.squeeze(dims)
    return Structure(lines=lines).number, inputs


def _of_numbers(mask: Tensor) -> Tensor:
    """From what is added to scores to booleans. Raises CallError where it is more than a mask."""
    if mask.requires_grad:
        raise CallError("attnspec.transformers: the mask asks for gradients: a bias of scores is no mask. Use eager")
    seen, hidden = mask == 0, mask <= torch.finfo(mask.dtype).min
    if not bool((seen | hidden).all()):
        raise CallError(
            "attnspec.transformers: the mask has numbers besides 0 (seen) and minus infinity, or the least of its "
            "dtype (hidden): it is a bias of scores, which this cannot take for a mask. Write it as a pattern with a "
            'score line, attnspec.transformers.register(name, pattern), or use attn_implementation="eager"'
        )
    return seen
