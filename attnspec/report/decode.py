"""What must stay of the keys of a sequence that is decoded: of a pattern, or of a branch that is a call of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from attnspec.analysis.cache_need import CacheNeed, cache_need
from attnspec.analysis.cache_size import CacheSize, cache_size
from attnspec.analysis.retention import retention
from attnspec.analysis.state_size import StateSize, state_size
from attnspec.relation.lower import lower
from attnspec.relation.relation import Relation
from attnspec.relation.sizes import Sizes
from attnspec.spec.spec import Spec

Ask = Callable[[Callable[[], Any]], Any]
"""The answer to a question, or in a few words why there is none."""


@dataclass(frozen=True)
class Decode:
    """Keys that must stay, what a cache of keys holds, and what is left of keys where weights are products of features.

    The last is None for softmax. A question without an answer holds the reason, a text.
    """

    needs: tuple[CacheNeed, ...] | str
    cache: CacheSize | str
    states: StateSize | str | None

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "decode": self.needs if isinstance(self.needs, str) else [asdict(need) for need in self.needs],
            "cache": self.cache if isinstance(self.cache, str) else _cache(self.cache),
            "states": asdict(self.states) if isinstance(self.states, StateSize) else self.states,
        }


def decoded(relation: Relation, sizes: Sizes, lengths: Sequence[int], dim: int, itemsize: int, ask: Ask) -> Decode:
    """What a pattern asks a cache to keep, of vectors of ``dim`` entries."""
    composed = relation.spec.composed
    return Decode(
        ask(lambda: cache_need(relation, lengths, sizes)),
        "each branch has a cache of its own in attnspec.Cache"
        if composed
        else ask(lambda: cache_size(retention(relation, sizes), sizes, lengths, 2 * dim * itemsize)),
        None if composed else _states(relation, sizes, lengths, dim, itemsize, ask),
    )


def by_branch(
    spec: Spec, sizes: Sizes, lengths: Sequence[int], dim: int, itemsize: int, ask: Ask
) -> tuple[tuple[Decode, ...], int | str]:
    """The same of branches that are calls of their own, and after multiples of how many tokens calls hand on states."""
    if not spec.composed:
        return (), ""
    relations = (lower(one, sizes.heads, sizes.kv_heads, sizes.batch) for one in spec.parts)
    found = tuple(decoded(relation, sizes, lengths, dim, itemsize, ask) for relation in relations)
    from attnspec.runtime.states.mixture import cut_of_mixture  # with torch

    return found, ask(lambda: cut_of_mixture(spec, sizes))


def _states(
    relation: Relation, sizes: Sizes, lengths: Sequence[int], dim: int, itemsize: int, ask: Ask
) -> StateSize | str | None:
    spec = relation.spec
    if not spec.weights.linear:
        return None
    if spec.mixture:
        return "each branch has states of its own: attend.branches"
    from attnspec.runtime.states.allowed import why_not

    found = ask(lambda: state_size(relation, sizes, lengths, dim, itemsize))
    reason = why_not(spec)
    return replace(found, cut=reason, waiting=0) if reason and isinstance(found, StateSize) else found


def _cache(size: CacheSize) -> dict[str, Any]:
    kept = [
        {"kv_heads": [*k.heads], "kept": str(k.retention), "bound": k.retention.bound, "exact": k.retention.exact}
        for k in size.kept
    ]
    return {"kept": kept, "lengths": size.lengths, "bytes": size.bytes}
