"""Reach: how many stacked layers it takes until every position can influence every later one.

A stack repeats a round of layers, each with a pattern of its own, from the input up; most have one pattern.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from attnspec.errors.relations import several_axes
from attnspec.relation.count import TooIrregular, count
from attnspec.relation.effort import stage
from attnspec.relation.presburger import Pairs, TooHard, budget
from attnspec.relation.relation import NoAnswer, Relation, box
from attnspec.relation.sizes import Sizes

_DENSE = 1024
"""The length of the masks that are looked at where the sets at full length are too irregular."""

_EACH = 32
"""Layers up to which the share of a stack of several patterns is told after each of them."""

Layer = tuple[Relation, Sizes]
"""A pattern of a stack, with the sizes of its call: they share length and batch, not heads."""


@dataclass(frozen=True)
class Reach:
    """How influence spreads over layers.

    ``layers`` is the number of layers after which every position has been able to influence every later one, None if
    that never happens. ``shares`` are (layers, share of the pairs ``k <= q`` reached). ``n`` is the length it holds
    for: where the exact sets were too irregular, a shorter one than was asked for, and ``exact`` is False.
    """

    n: int
    layers: int | None
    shares: tuple[tuple[int, float], ...]
    exact: bool


@stage()
def reach(*layers: Layer) -> Reach:
    """The reach of a stack with residual connections that repeats ``layers``, the first of them next to the input.

    A layer joins what its heads see. Where batch entries differ, the one that takes longest counts. Raises NoAnswer
    where it takes the contents of inputs to know, or where there are axes.
    """
    for relation, _ in layers:
        relation.require_exact()
        if relation.spec.axes:
            raise NoAnswer([several_axes(relation.spec.span, relation.spec.name, "reach")])
    by_entry = any(relation.varies(item, "b") for relation, _ in layers for item in relation.classes)
    square = [(relation, replace(sizes, n_q=sizes.n, aligned_end=True)) for relation, sizes in layers]
    entries = range(square[0][1].batch) if by_entry else (0,)
    return max((_of_entry(square, b) for b in entries), key=lambda r: float("inf") if r.layers is None else r.layers)


def _of_entry(layers: Sequence[Layer], b: int) -> Reach:
    n = layers[0][1].n
    try:
        return _sets([_set(relation, sizes, b) for relation, sizes in layers], n)
    except (TooHard, TooIrregular):
        if any(relation.reads_scalars for relation, _ in layers):
            raise
        short = min(n, _DENSE)
        return _steps([_mask(relation, sizes, b, short) for relation, sizes in layers], short == n)


def _set(relation: Relation, sizes: Sizes, b: int) -> Pairs:
    """The union over heads, at one length, with the residual connection."""
    joined = Pairs.read(f"x = y and 0 <= x < {sizes.n}")
    for item in relation.classes:
        relation.parameters(sizes, 0, b, item.pairs)
    with budget(*(item.pairs for item in relation.classes)):
        for item in relation.classes:
            members = item.members(sizes.heads)
            chosen = members if relation.varies(item, "h") else members[:1]
            for h in chosen:
                joined = joined.union(item.pairs.intersection(box(sizes)).fix(**sizes.parameters(h, b)))
        return joined.anonymous()


def _mask(relation: Relation, sizes: Sizes, b: int, n: int) -> NDArray[np.bool_]:
    """The same as a mask, (n, n)."""
    spec = replace(relation.spec, inputs=())
    mask = spec.mask(n, heads=sizes.heads, batch=sizes.batch, kv_heads=sizes.kv_heads)
    joined: NDArray[np.bool_] = mask[b].any(axis=0) | np.eye(n, dtype=bool)
    return joined


def _sets(layers: Sequence[Pairs], n: int) -> Reach:
    """By repeated squaring of a round's exact set, then bisection between the last two powers."""
    target = Pairs.read(f"0 <= y <= x and x < {n}").anonymous()
    alone = Pairs.read(f"x = y and 0 <= x < {n}").anonymous()  # below all layers a position is seen by itself
    total, period = n * (n + 1) // 2, len(layers)

    def share(reached: Pairs) -> float:
        with budget(reached):
            pieces = reached.intersection(target).pieces()
        return count(pieces, n) / total

    def covers(reached: Pairs) -> bool:
        with budget(reached):
            return target.within(reached)

    def then(first: Pairs, second: Pairs) -> Pairs:
        with budget(first, second):
            return first.then(second)

    def each(most: int) -> list[tuple[int, float]]:
        """The share after each layer, up to a number of layers."""
        shares, reached = [], alone
        for number in range(most):
            reached = then(layers[number % period], reached)
            shares.append((number + 1, share(reached)))
        return shares

    one_round = layers[0]
    for layer in layers[1:]:
        one_round = then(layer, one_round)
    powers = [one_round]
    shares = [(period, share(powers[0]))]
    while not covers(powers[-1]):
        squared = then(powers[-1], powers[-1])
        with budget(squared):
            settled = squared.within(powers[-1])
        if settled:
            return Reach(n, None, tuple(shares if period == 1 else each(min(_EACH, shares[-1][0]))), True)
        powers.append(squared)
        shares.append((2 * shares[-1][0], share(squared)))
    # All rounds but the last, of which one layer after another is added.
    reached, rounds = alone, 0
    for exponent in range(len(powers) - 2, -1, -1):
        further = then(reached, powers[exponent]) if rounds else powers[exponent]
        if exponent == len(powers) - 2 or not covers(further):  # the power before the last is known not to cover
            reached, rounds = further, rounds + 2**exponent
    needed = period * rounds + 1
    for layer in layers[:-1]:
        reached = then(layer, reached)
        if covers(reached):
            break
        needed += 1
    if period > 1 and needed <= _EACH:
        shares = each(needed - 1)
    return Reach(n, needed, (*(s for s in shares if s[0] < needed), (needed, 1.0)), True)


def _steps(masks: Sequence[NDArray[np.bool_]], exact: bool) -> Reach:
    """The same on masks of a short sequence, a layer at a time: a row of bits for each position, of what reached it."""
    n, period = len(masks[0]), len(masks)
    seen = [np.nonzero(mask)[1] for mask in masks]
    starts = [np.concatenate([[0], np.cumsum(mask.sum(axis=1))[:-1]]) for mask in masks]  # all see at least themselves
    reached, later = np.eye(n, -(-n // 64) * 64, dtype=bool), np.tri(n, dtype=bool)
    bits = np.packbits(reached, axis=1).view(np.uint64)
    shares: list[tuple[int, float]] = []
    layer = changed = 0
    while layer - changed < period:
        at, layer = layer % period, layer + 1
        further = np.bitwise_or.reduceat(bits[seen[at]], starts[at], axis=0)
        changed, bits = (changed if np.array_equal(further, bits) else layer), further
        shares.append((layer, float(np.unpackbits(bits.view(np.uint8), axis=1)[:, :n][later].mean())))
        if shares[-1][1] == 1.0:
            return Reach(n, layer, tuple(shares), exact)
    return Reach(n, None, tuple(shares[: max(1, changed)]), exact)
