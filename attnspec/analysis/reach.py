"""Reach: how many stacked layers it takes until every position can influence every later one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from attnspec.errors.relations import several_axes
from attnspec.relation.count import TooIrregular, count
from attnspec.relation.presburger import Pairs, TooHard, budget
from attnspec.relation.relation import NoAnswer, Relation, box
from attnspec.relation.sizes import Sizes

_DENSE = 1024


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


def reach(relation: Relation, sizes: Sizes) -> Reach:
    """The reach of a stack of equal layers with residual connections, over ``sizes.n`` positions.

    A layer joins what its heads see. Where batch entries differ, the one that takes longest counts. Raises NoAnswer
    where it takes the contents of inputs to know, or where there are axes.
    """
    relation.require_exact()
    if relation.spec.axes:
        raise NoAnswer([several_axes(relation.spec.span, relation.spec.name, "reach")])
    by_entry = any(relation.varies(item, "b") for item in relation.classes)
    square = replace(sizes, n_q=sizes.n, aligned_end=True)
    found = [_of_entry(relation, square, b) for b in (range(sizes.batch) if by_entry else (0,))]
    return max(found, key=lambda r: float("inf") if r.layers is None else r.layers)


def _of_entry(relation: Relation, sizes: Sizes, b: int) -> Reach:
    try:
        return _sets(_layer(relation, sizes, b), sizes.n)
    except (TooHard, TooIrregular):
        if relation.reads_scalars:
            raise
        short = min(sizes.n, _DENSE)
        mask = replace(relation.spec, inputs=()).mask(
            short, heads=sizes.heads, batch=sizes.batch, kv_heads=sizes.kv_heads
        )
        return _graph(mask[b].any(axis=0), short == sizes.n)


def _layer(relation: Relation, sizes: Sizes, b: int) -> Pairs:
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


def _sets(layer: Pairs, n: int) -> Reach:
    """By repeated squaring of the exact set, then bisection between the last two powers."""
    target = Pairs.read(f"0 <= y <= x and x < {n}").anonymous()
    total = n * (n + 1) // 2

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

    powers = [layer]
    shares = [(1, share(layer))]
    while not covers(powers[-1]):
        squared = then(powers[-1], powers[-1])
        with budget(squared):
            settled = squared.within(powers[-1])
        if settled:
            return Reach(n, None, tuple(shares), True)
        powers.append(squared)
        shares.append((2 ** (len(powers) - 1), share(squared)))
    if len(powers) == 1:
        return Reach(n, 1, tuple(shares), True)
    reached, layers = powers[-2], 2 ** (len(powers) - 2)
    for exponent in range(len(powers) - 3, -1, -1):
        further = then(reached, powers[exponent])
        if not covers(further):
            reached, layers = further, layers + 2**exponent
    return Reach(n, layers + 1, (*shares[:-1], (layers + 1, 1.0)), True)


def _graph(mask: NDArray[np.bool_], exact: bool) -> Reach:
    """The same on a dense graph of a short sequence."""
    n = len(mask)
    lower = np.tri(n, dtype=bool)
    layer = (mask | np.eye(n, dtype=bool)).astype(np.float32)
    reached, layers = layer, 1
    shares = [(1, float((reached > 0)[lower].mean()))]
    while shares[-1][1] < 1.0:
        further = (reached @ layer > 0).astype(np.float32)
        if (further == reached).all():
            return Reach(n, None, tuple(shares), exact)
        reached, layers = further, layers + 1
        shares.append((layers, float((reached > 0)[lower].mean())))
    return Reach(n, layers, tuple(shares), exact)
