"""Models of Hugging Face's: imported where one is wrapped, as this imports transformers."""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.recurrent.decoder import Shape
from attnspec.runtime.recurrent.pattern import Bound

NAME = "attnspec-recurrent"
"""What our attention is called in transformers' registry."""

_SCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
"""Settings by which logits are more than the output embeddings give."""


_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
"""Settings that say how many experts there are."""
_WINDOWS = (
    ("sliding_window", "layer_types", "sliding"),
    ("attention_chunk_size", "layer_types", "chunked"),
    ("window_size", "attention_layers", "local"),
    ("attention_window_size", "layer_types", "sliding"),
)
"""Settings by which layers see few positions, where kinds of layers are said, and which kinds these are."""


class HuggingFace:
    """A decoder of transformers, by ``get_input_embeddings``, ``base_model`` and ``get_output_embeddings``."""

    def __init__(self, model: PreTrainedModel, head: Any, layered: bool) -> None:
        self.model, self._head, self.layered = model, head, layered
        config = model.config
        name = type(model).__name__
        if config.is_encoder_decoder:
            raise CallError(f"{name} is an encoder with a decoder: segments are run by one stack of layers")
        if model.get_input_embeddings() is None:
            raise CallError(
                f"{name} has no input embeddings: give the function, attnspec.recurrent(step, ..., embed=...)"
            )
        if head is None:
            if model.get_output_embeddings() is None:
                raise CallError(f"{name} has no output embeddings: give head=, from last hidden states to logits")
            scaled = [setting for setting in _SCALED if getattr(config, setting, None) not in (None, 1, 1.0)]
            if scaled:
                raise CallError(
                    f"{name}'s logits are more than its output embeddings give ({', '.join(scaled)}): give head=, from "
                    "last hidden states to logits"
                )
        taken = inspect.signature(model.base_model.forward).parameters
        if "inputs_embeds" not in taken:
            raise CallError(f"{name}.base_model takes no inputs_embeds")
        self._stateful = bool(getattr(model, "_is_stateful", False))
        self._places = "position_ids" in taken
        names = () if self._stateful else ("cache", "past_key_values")
        self._cache = next((name for name in names if name in taken), None)
        if layered and (self._cache is None or not (self._places or self.most() is None)):
            what = "takes no position_ids" if self._cache else "has no cache of keys and values alone"
            raise CallError(f"{name} {what}: nothing can be carried by layer")

    @property
    def table(self) -> Any:
        """The model's input embeddings, as they are now."""
        return self.model.get_input_embeddings()

    @property
    def many(self) -> int | None:
        """How many there are."""
        return getattr(self.table, "num_embeddings", None)

    def embed(self, ids: Tensor) -> Tensor:
        """By the model's input embeddings."""
        found: Tensor = self.model.get_input_embeddings()(ids)
        return found

    def head(self, hidden: Tensor) -> Tensor:
        """By the model's output embeddings, or the function that was given."""
        found: Tensor = (self.model.get_output_embeddings() if self._head is None else self._head)(hidden)
        return found

    def run(
        self, vectors: Tensor, kept: tuple[Tensor, ...], start: int, bound: Bound
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The base model over the vectors; by layer its keys and values of these rows."""
        if not self.layered:
            return self._run(vectors, bound, use_cache=False), ()
        hidden, cache = self.opened(vectors, kept, start, bound)
        rows = vectors.shape[1]
        return hidden, tuple(t[..., -rows:, :] for layer in cache.layers for t in (layer.keys, layer.values))

    def goes_on(self, bound: Bound) -> bool:
        """In its own causal attention, with a cache."""
        return self._cache is not None and self.own(bound)

    def opened(
        self, vectors: Tensor, kept: tuple[Tensor, ...], start: int, bound: Bound
    ) -> tuple[Tensor, DynamicCache]:
        """The same with the cache that it leaves, which :meth:`go_on` goes on from."""
        checkpointed = any(getattr(m, "gradient_checkpointing", False) for m in self.model.base_model.modules())
        if self.model.training and checkpointed:
            raise CallError(
                f"{bound.pattern.spec.name}: with gradient checkpointing {type(self.model).__name__} drops the keys "
                "that layers keep: call model.gradient_checkpointing_disable() (remat runs segments again anyway)"
            )
        if kept:
            self._check_kept(bound.pattern.spec.name, kept, vectors)
        if not torch.is_autocast_enabled(vectors.device.type):
            kept = tuple(t.to(vectors.dtype) for t in kept)
        cache = DynamicCache()
        for layer, (k, v) in enumerate(zip(kept[::2], kept[1::2], strict=True)):
            cache.update(k, v, layer)
        more: dict[str, Any] = {str(self._cache): cache, "use_cache": True, **self._at(vectors, start)}
        return self._run(vectors, bound, **more), cache

    def _at(self, vectors: Tensor, start: int) -> dict[str, Any]:
        """The positions of vectors, for a model that is told them."""
        if not self._places:
            return {}
        return {"position_ids": torch.arange(start, start + vectors.shape[1], device=vectors.device)[None]}

    def _check_kept(self, name: str, kept: tuple[Tensor, ...], vectors: Tensor) -> None:
        """Raises CallError for keys and values that are not of a model like this one."""
        if len(kept) != len(self._kept_shapes):
            layers = len(self._kept_shapes) // 2
            raise CallError(f"{name}: the state is of a model of {len(kept) // 2} layers; this one has {layers}")
        for t, (heads, dim) in zip(kept, self._kept_shapes, strict=True):
            wanted = (vectors.shape[0], heads, t.shape[-2], dim)
            if t.shape != wanted:
                raise CallError(f"{name}: the state has keys or values of {tuple(t.shape)}; this model's are {wanted}")

    @cached_property
    def _kept_shapes(self) -> list[tuple[int, int]]:
        """How many heads, and of what size, the cache has of the keys and of the values of each layer: tried."""
        cache = DynamicCache()
        self._try(1, use_cache=True, **{str(self._cache): cache})
        return [(t.shape[1], t.shape[3]) for layer in cache.layers for t in (layer.keys, layer.values)]

    @cached_property
    def _looks_ahead(self) -> bool:
        """Whether a position depends on the next one: tried."""
        first, other = (self._try(2, change)[:, 0] for change in (0.0, 1.0))
        if first.is_meta:
            name = type(self.model).__name__
            raise CallError(f"{name} does not say that it is causal, and cannot be tried on meta: take another device")
        return not torch.allclose(first, other, rtol=1e-3, atol=1e-3 * float(first.abs().max()))

    def _try(self, positions: int, change: float = 0.0, **more: Any) -> Tensor:
        """Last hidden states of a few vectors, the last of them changed; nothing else notices."""
        device = next(self.model.base_model.parameters()).device
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(0)  # dropout is the same each time
            vectors = self.embed(torch.zeros((1, positions), dtype=torch.long, device=device)).clone()
            vectors[:, -1] += change * torch.linspace(-1, 1, vectors.shape[-1], device=device, dtype=vectors.dtype)
            found: Tensor = self.model.base_model(inputs_embeds=vectors, **more).last_hidden_state
        return found

    def go_on(self, vectors: Tensor, cache: DynamicCache, start: int) -> Tensor:
        """Last hidden states of more vectors, in the model's own causal attention."""
        more: dict[str, Any] = {str(self._cache): cache, "use_cache": True, **self._at(vectors, start)}
        found = self.model.base_model(inputs_embeds=vectors, **more)
        hidden: Tensor = found.last_hidden_state
        return hidden

    def _run(self, vectors: Tensor, bound: Bound, **more: Any) -> Tensor:
        own = self.own(bound)
        if not own:
            if self.model.config._attn_implementation != NAME:
                _take_ours(self.model)
            # Some models count positions by the mask, where they are not told them.
            more = {**self._at(vectors, 0), **more, "attention_mask": bound.mask}
        found = self.model.base_model(inputs_embeds=vectors, **more)
        hidden: Tensor = found.last_hidden_state
        return hidden

    def most(self) -> int | None:
        """The size of a table of learned positions."""
        most = getattr(self.model.config, "max_position_embeddings", None)
        if most is None:
            return None
        inputs = self.model.get_input_embeddings()
        tables = [m for m in self.model.base_model.modules() if isinstance(m, nn.Embedding) and m is not inputs]
        return most if any(m.num_embeddings in (most, most + 2) for m in tables) else None

    def shape(self) -> Shape | None:
        """By the parameters and the config; of experts those that a position goes to. None where a state is kept."""
        base, config = self.model.base_model, self.model.config
        heads = getattr(config, "num_attention_heads", None)
        if self._stateful or not isinstance(heads, int):
            return None
        tables = {id(p) for m in base.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        matrices = {name: p.numel() for name, p in base.named_parameters() if p.dim() > 1 and id(p) not in tables}
        experts = sum(numbers for name, numbers in matrices.items() if ".experts." in name)
        there = next((many for setting in _EXPERTS if (many := getattr(config, setting, None))), 1)
        idle = experts - experts * (getattr(config, "num_experts_per_tok", None) or there) // there
        head = self.model.get_output_embeddings() if self._head is None else self._head
        dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        kept = getattr(config, "num_key_value_heads", None) or heads
        of_head = sum(p.numel() for p in head.parameters() if p.dim() > 1) if isinstance(head, nn.Module) else 0
        return Shape(sum(matrices.values()) - idle, of_head, config.num_hidden_layers, heads, kept, dim)

    def own(self, bound: Bound) -> bool:
        """Whether the model's own attention has the mask of a run."""
        return not self._why_not(bound)

    def _why_not(self, bound: Bound) -> str:
        """Why it has not; empty where it has."""
        said = [m.is_causal for m in self.model.base_model.modules() if isinstance(getattr(m, "is_causal", None), bool)]
        if not (all(said) and getattr(self.model.config, "is_causal", True)) or (not said and self._looks_ahead):
            return f"{type(self.model).__name__} is not causal"
        return bound.pattern.why_not_causal

    def check(self, bound: Bound) -> str:
        """Its own where the relation says so, and ours where not."""
        name, model = bound.pattern.spec.name, type(self.model).__name__
        positions = sum(bound.pattern.sizes(bound.length).values())
        window = self._window()
        if window is not None and window < positions:
            settings = ", ".join(setting for setting, *_ in _WINDOWS if getattr(self.model.config, setting, None))
            raise CallError(
                f"{name}: layers of {model} see the last {window} positions only ({settings}), and a segment has "
                f"{positions}: the spec says what is seen. Take smaller segments, or a config without that"
            )
        if self.own(bound):
            return f"{model}'s own: the mask of a segment is plain causal"
        if self._stateful or not self.model._can_set_attn_implementation():
            raise CallError(
                f"{name}: {model} takes no attention but its own, which has not the mask of a segment: "
                f"{self._why_not(bound)}"
            )
        return f"attnspec's, of {name}, as {self._why_not(bound)}"

    def _window(self) -> int | None:
        """The least number of positions that layers see, where they say so."""
        config = self.model.config
        found = []
        for setting, layers, kind in _WINDOWS:
            kinds = getattr(config, layers, None)
            if layers == "layer_types" if kinds is None else any(str(one).startswith(kind) for one in kinds):
                found.append(getattr(config, setting, None))
        return min((window for window in found if isinstance(window, int)), default=None)


def _take_ours(model: PreTrainedModel) -> None:
    """Let a model take its attention from here; without numbers that stand for a pattern it is SDPA's, as before."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **more: Any
) -> tuple[Tensor, Tensor | None]:
    if attention_mask is None or attention_mask.dtype != torch.int64:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **more)  # type: ignore[no-any-return]
    bound = Bound.of(attention_mask)
    name = bound.pattern.spec.name
    for setting in ("softcap", "s_aux", "position_bias"):
        if more.get(setting) is not None:
            raise CallError(f"{name}: the mask of a segment comes from attnspec, where layers cannot have `{setting}`")
    if more.get("dropout"):
        raise CallError(
            f"{name}: the mask of a segment comes from attnspec, which has no dropout of weights, here "
            f"{more['dropout']}: set attn_pdrop or attention_dropout to 0 in the config of the model"
        )
    out = bound(query, key, value, scale=more.get("scaling"))
    return out.transpose(1, 2).contiguous(), None
