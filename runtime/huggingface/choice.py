"""Which layers of a model a pattern is for: all, those of some types or numbers, or what a function says."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.huggingface.pattern import Pattern, Source

Sources = Source | Mapping[str, Source] | Callable[[int], Source | None]
"""One pattern, one for each type of layers, or a function from a layer's number to its pattern (None: its own mask)."""
Layers = Iterable[int | str] | int | str | None
_FULL = "full_attention"
_OWN_STATES = ("linear_attention", "conv", "mamba", "moe", "mlp", "dummy")


@dataclass(frozen=True)
class Choice:
    """What was registered under a name.

    ``patterns`` are by type of layers, "" for whatever type; with ``by_number`` they come from a function.
    """

    patterns: tuple[tuple[str, Pattern], ...] = ()
    layers: tuple[int | str, ...] | None = None
    by_number: Callable[[int], Pattern | None] | None = None

    @property
    def patterned(self) -> bool:
        """Whether there is any pattern; without one all layers have their own masks."""
        return bool(self.patterns) or self.by_number is not None

    @classmethod
    def of(cls, pattern: Sources, layers: Layers, restart: bool, params: Mapping[str, Any]) -> Choice:
        """Of what a user gives. Raises CallError where it says nothing, or patterns that cannot stand in a model."""
        only: tuple[Any, ...] | None = None
        if layers is not None:
            several = isinstance(layers, Iterable) and not isinstance(layers, str)
            only = tuple(layers) if several else (layers,)  # type: ignore[arg-type]
        if only is not None and not (only and all(type(number) in (int, str) for number in only)):
            raise CallError(f"attnspec.transformers: layers are numbers or types of layers, not {layers!r}")
        if isinstance(pattern, Mapping):
            if only is not None:
                raise CallError(
                    "attnspec.transformers: patterns by type of layers say already which layers they are for"
                )
            made = tuple((str(kind), Pattern.of(one, params, restart)) for kind, one in pattern.items())
            if not made:
                raise CallError("attnspec.transformers: there are no patterns")
            return cls(made)
        if callable(pattern) and not isinstance(pattern, str) and not hasattr(pattern, "spec"):
            if only is not None or params:
                raise CallError("attnspec.transformers: a function says itself which layers, and with which parameters")
            return cls(by_number=_by_number(pattern, restart))
        return cls((("", Pattern.of(pattern, params, restart)),), only)  # type: ignore[arg-type]

    def of_layers(self, config: Any) -> tuple[Pattern | None, ...]:
        """The pattern of each layer of a model, None where a layer has its own mask.

        Raises CallError for types and numbers of layers that it has not.
        """
        return self.of_types(layer_types(config))

    @functools.lru_cache(maxsize=64)  # noqa: B019
    def of_types(self, kinds: tuple[str, ...]) -> tuple[Pattern | None, ...]:
        """The same, of a model whose layers have these types."""
        attend = tuple(kind not in _OWN_STATES for kind in kinds)
        there = {kind for kind, one in zip(kinds, attend, strict=True) if one}
        if not self.patterned:
            return (None,) * len(kinds)
        if not there:
            raise CallError(f"attnspec.transformers: no layer attends to keys: they are {', '.join(sorted({*kinds}))}")
        if self.by_number is not None:
            return tuple(self.by_number(number) if one else None for number, one in enumerate(attend))
        named = [kind for kind, _ in self.patterns if kind] + [one for one in self.layers or () if isinstance(one, str)]
        wrong = [one for one in named if one not in there]
        numbers = [one for one in self.layers or () if isinstance(one, int)]
        wrong += [str(one) for one in numbers if not (0 <= one < len(kinds) and attend[one])]
        if wrong:
            raise CallError(
                f"attnspec.transformers: no layer that attends is {wrong[0]!r}: this model has {len(kinds)} layers, of "
                f"types {', '.join(sorted({*kinds}))}"
            )
        if self.patterns[0][0]:
            return tuple(dict(self.patterns).get(kind) for kind in kinds)
        one = self.patterns[0][1]
        if self.layers is not None:
            return tuple(one if {i, kind} & {*self.layers} else None for i, kind in enumerate(kinds))
        if len(there) == 1:
            return tuple(one if kind in there else None for kind in kinds)
        if _FULL not in there:
            raise CallError(
                f"attnspec.transformers: layers are of types {', '.join(sorted(there))}: say which the pattern is for, "
                'by type, {"sliding_attention": ...}, or layers='
            )
        return tuple(one if kind == _FULL else None for kind in kinds)


def layer_types(config: Any) -> tuple[str, ...]:
    """The types of a model's layers, as transformers names them, also where the config does not."""
    found: Iterable[str] | None = getattr(config, "layer_types", None)
    if found is not None:
        return tuple(found)
    if getattr(config, "model_type", "") == "gpt_neo":
        return tuple("sliding_attention" if one == "local" else _FULL for one in config.attention_layers)
    kind = _FULL
    if getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True):
        kind = "sliding_attention"
    elif getattr(config, "attention_chunk_size", None) is not None:
        kind = "chunked_attention"
    many: int | None = getattr(config, "decoder_layers", None) if getattr(config, "is_decoder", False) else None
    return (kind,) * (many or config.num_hidden_layers)


@functools.cache  # the same function again is the same choice
def _by_number(function: Callable[[int], Source | None], restart: bool) -> Callable[[int], Pattern | None]:
    found: dict[int, Pattern | None] = {}

    def of(number: int) -> Pattern | None:
        if number not in found:
            source = function(number)
            found[number] = None if source is None else Pattern.of(source, {}, restart)
        return found[number]

    return of
