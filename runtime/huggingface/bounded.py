"""A cache of transformers of which each layer keeps what its pattern can still see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin

from attnspec.runtime.caches.cache import Cache as Keys
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.huggingface.pattern import SINKS, Pattern
from attnspec.runtime.huggingface.standin import Row
from attnspec.spec.units import quantity

_MARK = "_attnspec_layer"


class Filler:
    """The module whose tokens a cache holds. It goes with a copy, and cannot be saved: no other process has it.

    ``by`` is the name of the attention that it had.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module, self.by = ref(module), _attention_of(module)

    def check_same(self, name: str) -> None:
        """Raises CallError where it has another attention now, which would take the latest keys for all there are."""
        module = self.module()
        if module is not None and _attention_of(module) != self.by:
            raise CallError(
                f"{name}: the attention of this model is {_attention_of(module)!r} now, and the tokens in its cache "
                f"are of {self.by!r}: call model.set_attn_implementation({self.by!r}) to go on with them, or "
                "cache.reset()"
            )

    def __deepcopy__(self, memo: object) -> Filler:
        return self

    def __reduce__(self) -> str:
        raise CallError(
            "attnspec.transformers: a cache cannot be saved with its tokens, as nobody could tell of which model they "
            "are: save the ids, or copy the cache with copy.deepcopy"
        )


class Layer(CacheLayerMixin):  # type: ignore[misc]
    """The keys and values of one layer, or its states.

    ``update`` gives back what is new, marked: the rest is here, and attention finds it by the mark. Entries of a batch
    that is padded on the left are kept in groups with as much padding, so that a position means the same in all of a
    group: the number of real tokens before it. ``own``: the pattern is that of the model's mask, ``checked`` the last
    structure of a mask that was seen to be it. ``layers`` is how many the model has, ``filled_by`` the module whose
    tokens are kept.
    """

    is_sliding = False
    is_croppable = False
    is_compileable = False

    def __init__(self, pattern: Pattern, own: bool, layers: int) -> None:
        super().__init__()
        self.pattern, self.own, self.layers = pattern, own, layers
        self.reset()

    def reset(self) -> None:
        """Forget everything: what comes next may be of another model with the same patterns."""
        self._tokens, self._waiting, self.is_initialized, self.checked = 0, False, False, 0
        self.filled_by: Filler | None = None
        self._starts: list[int | None] = []
        self._groups: dict[int, Keys] = {}
        self._of_branches: float | None = None

    @property
    def groups(self) -> tuple[Keys, ...]:
        """The caches of batch entries that have real tokens, each of those with as much padding."""
        return tuple(self._groups.values())

    @property
    def bytes(self) -> int:
        """The memory that keys and values take, and states."""
        return sum(keys.bytes for keys in self._groups.values())

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """How many batch entries there are; room is made where it is known where their tokens begin."""
        self._starts, self.is_initialized = [None] * key_states.shape[0], True

    def update(self, key_states: Tensor, value_states: Tensor, *more: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Take the keys and values of the next tokens, (batch, kv_heads, tokens, dim); they come back."""
        self.refuse_graph()
        name = self.pattern.spec.name
        if self._waiting:
            raise CallError(
                f"{name}: nothing attended to the last keys of this cache: that call was refused, or the attention of "
                "the model is not the one that the cache was made for. Call cache.reset(), or make a new cache, "
                "attnspec.transformers.cache(model)"
            )
        if self.filled_by is not None:
            self.filled_by.check_same(name)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if key_states.shape[0] != len(self._starts):
            raise CallError(
                f"{name}: {key_states.shape[0]} batch entries, and the cache is of {len(self._starts)}: call "
                "cache.reset() for other ones"
            )
        self._tokens, self._waiting = self._tokens + key_states.shape[2], True
        marked = key_states.view_as(key_states)
        setattr(marked, _MARK, self)
        return marked, value_states

    def refuse_graph(self) -> None:
        """Raises CallError while torch.compile traces."""
        if torch.compiler.is_compiling():
            raise CallError(
                "attnspec.transformers: a cache that drops keys is no part of a graph: call the model itself, not what "
                "torch.compile makes of it, or compile without fullgraph, or take a StaticCache, transformers' own"
            )

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        rows: Sequence[Row],
        scales: tuple[float | None, float | None],
        cap: float | None,
        sinks: Tensor | None,
    ) -> Tensor:
        """Attention of the queries of the tokens that came last, (batch, heads, tokens, dim), to all that were kept.

        ``scales`` are those of the call and of branches that have none (:meth:`Standing.scales`).
        """
        if not self._waiting:
            raise CallError(
                f"{self.pattern.spec.name}: a layer of this model attends more than once to the same keys, which a "
                "bounded cache would take for new ones: generate with a DynamicCache"
            )
        scale, of_branches = scales
        if self._groups and of_branches != self._of_branches:
            raise CallError(
                f"{self.pattern.spec.name}: the model's scale is {of_branches} now, and was {self._of_branches} for "
                "the tokens in this cache: call cache.reset()"
            )
        self._of_branches = of_branches
        if query.shape[2] != key.shape[2]:
            raise CallError(
                f"{self.pattern.spec.name}: {query.shape[2]} queries came with {key.shape[2]} keys: the model has more "
                "keys than those of this cache"
            )
        self._waiting = False
        before = self._tokens - key.shape[2]
        for start, entries in self._begin(rows, before).items():
            self._groups[start] = Keys(
                self.pattern.attention(frozenset(), cap, sinks is not None, of_branches),
                batch=len(entries),
                kv_heads=key.shape[1],
                dim=key.shape[3],
                dim_v=value.shape[3],
                heads=query.shape[1],
                dtype=key.dtype,
                device=key.device,
            )
        given: dict[str, Any] = {"scale": scale, "inputs": {} if sinks is None else {SINKS: sinks}}
        if len(self._groups) == 1 and all(start is not None and start <= before for start in self._starts):
            (keys,) = self._groups.values()
            keys.append(key, value)
            found: Tensor = keys.attend(query, **given)
            return found
        out = query.new_zeros((*query.shape[:3], value.shape[3]))
        for start, keys in self._groups.items():
            at = torch.tensor(self._entries(start), device=query.device)
            padding = max(0, start - before)
            q, k, v = (t.index_select(0, at)[:, :, padding:] for t in (query, key, value))
            keys.append(k, v)
            out[at, :, padding:] = keys.attend(q, **given).to(out.dtype)
        return out

    def _begin(self, rows: Sequence[Row], before: int) -> dict[int, list[int]]:
        """The batch entries whose tokens begin among the new ones, by where.

        Raises CallError where padding is not before all tokens, or not where it was.
        """
        name, new = self.pattern.spec.name, dict[int, list[int]]()
        for entry, (_, _, start, stop) in enumerate(rows):
            known = self._starts[entry]
            if start >= stop and known is None:
                continue  # padding so far
            if start < stop < self._tokens:
                raise CallError(
                    f"{name}: batch entry {entry} ends with padding, behind which its next tokens would stand: pad on "
                    'the left (tokenizer.padding_side = "left")'
                )
            if start != known and (known is not None or start < before):
                raise CallError(
                    f"{name}: the tokens of batch entry {entry} begin at position {start} now, and did not at the step "
                    "before: give the attention_mask of all tokens at every step"
                )
            if known is None:
                self._starts[entry] = start
                new.setdefault(start, []).append(entry)
        return new

    def _entries(self, start: int) -> list[int]:
        return [entry for entry, known in enumerate(self._starts) if known == start]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Put batch entries in the place of others: for beam search. There may be more of them, or fewer."""
        if not self.is_initialized:
            return
        indices = beam_idx.tolist()
        for start in list(self._groups):
            place = {entry: i for i, entry in enumerate(self._entries(start))}
            taken = [place[entry] for entry in indices if entry in place]
            if not taken:
                del self._groups[start]
            elif taken != list(range(len(place))):
                self._groups[start].reorder(torch.tensor(taken))
        self._starts = [self._starts[entry] for entry in indices]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each batch entry several times."""
        self.reorder_cache(torch.arange(len(self._starts)).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Some batch entries."""
        self.reorder_cache(torch.arange(len(self._starts))[indices])

    def crop(self, tokens_to_remove: int) -> None:
        """Raises CallError: what was dropped for the last tokens is not there any more."""
        if tokens_to_remove:
            raise CallError(
                f"{self.pattern.spec.name}: a cache that drops keys cannot go back {abs(tokens_to_remove)} tokens, as "
                "assisted generation and prompt lookup do: generate with a DynamicCache, transformers' own"
            )

    def get_seq_length(self) -> int:
        """How many tokens there were, padding counted."""
        return self._tokens

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """What attention is given: the new keys, and where they stand. Raises CallError where there are none."""
        if not query_length:
            raise CallError(
                f"{self.pattern.spec.name}: this cache holds {self._tokens:,} tokens, and the prompt has none beyond "
                "them: it is taken to begin with these. For another prompt call cache.reset() first, or make a new "
                "cache, attnspec.transformers.cache(model)"
            )
        return query_length, self._tokens

    def get_max_length(self) -> int:
        """There is no most."""
        return -1

    def __str__(self) -> str:
        return ", ".join(dict.fromkeys(keys.said() for keys in self._groups.values())) or "empty"


class Bounded(Cache):  # type: ignore[misc]
    """What layers keep where each keeps what its pattern can still see: ``attnspec.transformers.cache(model)``.

    ``bytes`` is the memory that it takes; print it to see what is kept.
    """

    layers: list[Layer]

    @property
    def bytes(self) -> int:
        """The memory of all layers, with room for more."""
        return sum(layer.bytes for layer in self.layers)

    def __repr__(self) -> str:
        kept = dict.fromkeys(f"{layer.pattern}: {layer}" for layer in self.layers)
        held = f"{len(self.layers)} layers, {self.get_seq_length():,} tokens, {quantity(self.bytes, 'B')}"
        return f"Bounded({held}; {'; '.join(kept)})"


def _attention_of(module: nn.Module) -> str:
    config: Any = module.config
    return str(config._attn_implementation)


def kept_by(key: Tensor) -> Layer | None:
    """The layer of a cache of this kind that keys were marked by; None where they are all there are."""
    found: Layer | None = getattr(key, _MARK, None)
    return found
