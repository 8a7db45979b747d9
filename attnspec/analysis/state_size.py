"""How much is to be kept to decode with weights that are products of features: states, and keys beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attnspec.analysis.carried import Carried, by_head, carried
from attnspec.analysis.states import Remembered, states
from attnspec.relation.relation import Relation
from attnspec.relation.sizes import Sizes


@dataclass(frozen=True)
class StateNeed:
    """How many states, and how many keys beside them, a head of some keeps after each of some numbers of tokens.

    ``heads`` is None for all heads, ``b`` is None for all batch entries.
    """

    heads: tuple[int, ...] | None
    b: int | None
    states: tuple[int, ...]
    keys: tuple[int, ...]


@dataclass(frozen=True)
class StateSize:
    """What each head keeps, the bytes of a layer after each of some numbers of tokens, and where a sequence may be cut.

    A state has ``shape``: features, and values (one more where sums are divided, and one where it counts from a largest
    logarithm), float32. ``cut``: after multiples of how many tokens one state is all there is, and calls hand it on; or
    in a few words why they do not. ``waiting`` is how many of the last keys a cache then keeps beside it;
    ``documents``: calls have a state for each document.
    """

    needs: tuple[StateNeed, ...]
    shape: tuple[int, int]
    lengths: tuple[int, ...]
    bytes: tuple[int, ...]
    cut: int | str
    waiting: int = 0
    documents: bool = False

    def __str__(self) -> str:
        """What a state is, and what calls do with one."""
        if isinstance(self.cut, str):
            said = f"calls hand on no state: {self.cut}"
            said += f"; attnspec.Cache keeps the last {self.waiting:,} keys apart" if self.waiting else ""
        else:
            one = "one of each document" if self.documents else "one"
            said = f"calls hand {one} on {'anywhere' if self.cut == 1 else f'after multiples of {self.cut:,} tokens'}"
        return f"a state is {self.shape[0]:,} x {self.shape[1]:,} numbers, float32; {said}"


def state_size(relation: Relation, sizes: Sizes, lengths: Sequence[int], dim: int, itemsize: int) -> StateSize:
    """The size of what is kept of vectors of ``dim`` entries, keys and values of ``itemsize`` bytes a number.

    >>> from attnspec.check.check import check_text
    >>> from attnspec.relation.lower import lower
    >>> found = lower(check_text("attention a { attend k <= q - 64  linear elu(x) + 1  divide total }"))
    >>> kept = state_size(found, Sizes(1, 1), [1000], 64, 4)
    >>> kept.needs[0].states, kept.needs[0].keys, kept.shape, kept.bytes
    ((1,), (63,), (64, 65), (48896,))
    >>> str(kept).split("; ")[1:]  # doctest: +NORMALIZE_WHITESPACE
    ['calls hand on no state: after 4,096 tokens 1 state and 63 keys are to be kept',
     'attnspec.Cache keeps the last 63 keys apart']

    Raises as :func:`attnspec.analysis.states.states` does.
    """
    spec, weights = relation.spec, relation.spec.weights
    shape = weights.features(dim), dim + weights.beside_values
    found, total = [], [0] * len(lengths)
    for item in states(relation, sizes):
        counts = [item.futures.kept(length) for length in lengths]
        found.append(StateNeed(item.heads, item.b, *zip(*counts, strict=True)))
        for i, (many, keys) in enumerate(counts):
            total[i] += _heads(item, sizes, by_head(spec)) * (
                many * 4 * shape[0] * shape[1] + keys * 2 * dim * itemsize
            )
    going, waiting = carried(relation, sizes), 0
    if isinstance(going, str) and weights.delta is None:
        cached = carried(relation, sizes, True)
        waiting = cached.lag if isinstance(cached, Carried) else 0
    packed = isinstance(going, Carried) and going.packed is not None
    cut = going.cut if isinstance(going, Carried) else going
    return StateSize(tuple(found), shape, tuple(lengths), tuple(total), cut, waiting, packed)


def _heads(item: Remembered, sizes: Sizes, differ: bool) -> int:
    """How many heads of how many batch entries keep the same."""
    entries = sizes.batch if item.b is None else 1
    if item.heads is None:
        return entries * (sizes.heads if differ else sizes.kv_heads)
    return entries * len(item.heads)
