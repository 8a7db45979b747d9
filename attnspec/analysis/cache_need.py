"""Decoding: which keys must stay in the cache, because some later query may still see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attnspec.analysis.live import groups
from attnspec.relation.count import row_counts
from attnspec.relation.effort import stage
from attnspec.relation.presburger import Pairs, budget
from attnspec.relation.relation import HeadClass, Relation
from attnspec.relation.sizes import Sizes


@dataclass(frozen=True)
class CacheNeed:
    """How many keys one class of heads must keep after each of some numbers of tokens.

    ``heads`` is None for all heads, ``b`` is None for all batch entries. ``keys[i]`` belongs to ``lengths[i]`` tokens;
    unless ``exact``, no more keys than that are needed, whatever the inputs hold.
    """

    heads: tuple[int, ...] | None
    b: int | None
    lengths: tuple[int, ...]
    keys: tuple[int, ...]
    exact: bool = True


@stage()
def cache_need(relation: Relation, lengths: Sequence[int], sizes: Sizes) -> tuple[CacheNeed, ...]:
    """The keys to keep after ``length`` tokens, for each class of heads (and batch entry, where they differ).

    A key is live while some later query may see it; a query at position q is the last of q + 1 tokens, so the pattern
    is taken with ``n = q + 1``. Of ``sizes`` only heads and batch matter. Exact for a sequence that goes on without
    end. Raises TooHard or TooIrregular, and NoAnswer where a computed order or axes leave no such question to ask.
    """
    found = []
    for item, (heads, b), h, entry in groups(relation, sizes):
        keys = _keys(item, lengths, relation.parameters(sizes, h, entry, item.pairs))
        found.append(CacheNeed(heads, b, tuple(lengths), keys, item.exact))
    return tuple(found)


def _keys(item: HeadClass, lengths: Sequence[int], parameters: dict[str, int]) -> tuple[int, ...]:
    fixed = {**parameters, "n": 0, "n_q": 1}
    with budget(item.pairs):
        seen = item.pairs.with_parameter("n", "x + 1").intersection(Pairs.read("0 <= y <= x"))
        later = Pairs.read("y > x and x >= 0")
        live = later.then(seen.fix(**fixed)).intersection(Pairs.read("0 <= y <= x")).fix(**fixed)
        pieces = live.pieces()
    last = np.array(sorted({length - 1 for length in lengths}), dtype=np.int64)
    counts = dict(zip(last.tolist(), row_counts(pieces, last).tolist(), strict=True))
    return tuple(counts[length - 1] for length in lengths)
