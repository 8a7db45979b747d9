"""What a layer of transformers hands to its attention."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers.utils import output_capturing

from attnspec.runtime.core.arguments import CallError

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


class Asked(NamedTuple):
    """Query (batch, heads, rows, dim), key and value (batch, kv_heads, keys, dim), a mask, and what a layer wants."""

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scaling: float | None
    is_causal: bool | None
    sliding_window: int | None
    softcap: float | None
    s_aux: Tensor | None
    position_bias: Tensor | None

    @classmethod
    def of(
        cls,
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
    ) -> Asked:
        """The arguments of an interface of attention. Raises CallError for what is asked besides, and is not there."""
        _refuse(module, dropout, more)
        wanted = scaling, is_causal, sliding_window, softcap, s_aux, position_bias
        return cls(module, query, key, value, attention_mask, *wanted)

    @property
    def name(self) -> str:
        """The kind of the layer."""
        return type(self.module).__name__


def _refuse(module: nn.Module, dropout: float, more: dict[str, Any]) -> None:
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
