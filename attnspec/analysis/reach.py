"""Reach: how many stacked layers it takes until every position can influence every later one.

A stack repeats a round of layers, each with a pattern of its own, from the input up; most have one pattern.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from attnspec.errors.relations import several_axes
from attnspec.relation.count import TooIrregular, count
from attnspec.relation.effort import stage
from attnspec.relation.presburger import Pairs, TooHard, budget
from attnspec.relation.relation import NoAnswer, Relation, box
from attnspec.relation.sizes import Sizes

_DENSE = 1024
"""The length at which positions become nodes of a graph, where the sets at full length are too irregular."""

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
        return _graph([_mask(relation, sizes, b, short) for relation, sizes in layers], short == n)


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


class _Graph(nx.DiGraph):  # type: ignore[type-arg]
    """A directed graph whose edges have no data: they share one empty dictionary."""

    _no_data: dict[str, object] = {}  # noqa: RUF012

    def edge_attr_dict_factory(self) -> dict[str, object]:
        return self._no_data


def _graph(masks: Sequence[NDArray[np.bool_]], exact: bool) -> Reach:
    """The same on a graph of a short sequence: the layers it takes are the lengths of shortest paths.

    A node is a position below one of the layers of a round; edges lead from what is seen to what sees it, a layer up.
    """
    n, period = len(masks[0]), len(masks)
    graph = _Graph()
    for below, mask in enumerate(masks):
        seers, seen = np.nonzero(mask)
        above = (below + 1) % period
        graph.add_edges_from(zip((below * n + seen).tolist(), (above * n + seers).tolist(), strict=True))
    distance = np.full((n, n), np.inf)  # of queries from keys, in layers
    for k in range(n):
        for node, steps in nx.single_source_shortest_path_length(graph, k).items():
            distance[node % n, k] = min(distance[node % n, k], max(1, steps))
    later = distance[np.tri(n, dtype=bool)]
    last = int(distance[np.isfinite(distance)].max())
    layers_needed = int(later.max()) if np.isfinite(later).all() else None
    numbers = range(1, (layers_needed or last) + 1)
    return Reach(n, layers_needed, tuple((i, float((later <= i).mean())) for i in numbers), exact)
