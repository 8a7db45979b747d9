"""Functions that were traced before: found again by what they are made of, whatever tensors are around them now."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from attnspec.runtime.attention import Attention, compile
from attnspec.runtime.flex.facts import Derived, Fact, Facts, Limit, Tensors
from attnspec.runtime.flex.imported import imported
from attnspec.runtime.flex.structure import Structure, structure
from attnspec.runtime.flex.tables import Call, views_alike

_FUNCTIONS = 256
_VARIANTS = 8


class CallSizes(NamedTuple):
    """The sizes of a call, as ``create_block_mask`` has them."""

    batch: int
    heads: int
    n_q: int
    n: int


class Found(NamedTuple):
    """Functions as a compiled pattern, and the tensors around them that it reads."""

    attention: Attention
    inputs: dict[str, Tensor]
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True)
class _Variant:
    """A pattern that functions become where their tensors are such.

    ``places`` say which of these are which inputs; ``sizes`` are those of the only calls that it is for.
    """

    attention: Attention
    places: Mapping[str, int]
    read: tuple[str, ...]
    derived: Mapping[str, Derived]
    facts: tuple[Fact, ...]
    alike: tuple[tuple[int, int], ...]
    sizes: CallSizes | None

    def of(self, tensors: tuple[Tensor, ...], sizes: CallSizes) -> Found | None:
        """The pattern with its inputs; None where what it takes for granted does not hold of these."""
        if self.sizes not in (None, sizes):
            return None
        named = Tensors({name: tensors[place] for name, place in self.places.items()})
        same = all(views_alike(tensors[one], tensors[other]) for one, other in self.alike)
        if not (same and all(fact.holds(named) for fact in self.facts)):
            return None
        made = {name: derived.of(named) for name, derived in self.derived.items()}
        return Found(self.attention, {name: made[name] if name in made else named[name] for name in self.read})


_known: OrderedDict[Hashable, tuple[_Variant, ...]] = OrderedDict()
"""No tensors are in it: keys and patterns are text and code."""


def pattern(
    mask_mod: Callable[..., Any] | None, score_mod: Callable[..., Any] | None, sizes: CallSizes, looks: bool = True
) -> Found:
    """The compiled pattern of functions for a call of these sizes. Raises CallError where they cannot be traced.

    What tensors hold is not looked at unless it ``looks``.
    """
    made_of = structure(mask_mod, score_mod)
    if made_of is None or not looks:
        with _disable_current_modes():
            return _traced(mask_mod, score_mod, sizes, looks)[0]
    key: Hashable = made_of.key
    if made_of.tensors:
        key = (key, sizes, *((t.dtype, t.device, t.shape, t.requires_grad) for t in made_of.tensors))
    variants = _known.get(key, ())
    for variant in variants:
        found = variant.of(made_of.tensors, sizes)
        if found is not None:
            _known.move_to_end(key)
            return found
    found, facts = _traced(mask_mod, score_mod, sizes, looks)
    new = _variant(found, facts, made_of, sizes)
    if new is not None:
        _known[key] = (new, *variants)[:_VARIANTS]
        _known.move_to_end(key)
        if len(_known) > _FUNCTIONS:
            _known.popitem(last=False)
    return found


def _traced(
    mask_mod: Callable[..., Any] | None, score_mod: Callable[..., Any] | None, sizes: CallSizes, looks: bool
) -> tuple[Found, Facts]:
    facts = Facts(looks, again=True)
    text, inputs = imported(mask_mod, score_mod, Call(*sizes), facts)
    return Found(_compiled(text), inputs, tuple(facts.limits)), facts


_compiled = functools.lru_cache(maxsize=_FUNCTIONS)(compile)


def _variant(found: Found, facts: Facts, made_of: Structure, sizes: CallSizes) -> _Variant | None:
    """What may be found again; None where values of tensors went into it other than by facts."""
    at = {id(t): place for place, t in enumerate(made_of.tensors)}
    named = {name: t for name, t in {**facts.tensors, **found.inputs}.items() if name not in facts.derived}
    if facts.values or not all(id(t) in at for t in (*named.values(), *chain(*facts.alike))):
        return None
    places = {name: at[id(t)] for name, t in named.items()}
    alike = tuple((at[id(one)], at[id(other)]) for one, other in facts.alike)
    noted = tuple(dict.fromkeys(facts.noted))
    return _Variant(
        found.attention, places, tuple(found.inputs), facts.derived, noted, alike, sizes if facts.sized else None
    )
