"""In which step messages travel: rounds in which each rank sends one message and receives one.

>>> import numpy as np
>>> ring = np.array([0, 1, 2]), np.array([1, 2, 0]), np.array([9, 9, 9])
>>> rounds(*ring, ranks=3).tolist()
[1, 1, 1]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from attnspec.codegen.ranks.distinct import numbered
from attnspec.codegen.ranks.needs import Ints

if TYPE_CHECKING:
    import networkx as nx

SMALL = 1 << 19
"""Bytes of a message that takes hardly longer than none: such messages travel together in the first step."""
Rank = tuple[str, int]
"""A node: a rank as a sender or as a receiver."""
_MOST_COLOURED = 1 << 10
"""Long messages whose rounds are found by colouring: with more of them that takes long."""


def rounds(source: Ints, target: Ints, weight: Ints, ranks: int) -> Ints:
    """The step, from 1 on, of the message from each source to each target; ``weight`` are their bytes.

    Small messages are all in step 1. The others are edges of a graph from senders to receivers, and steps its colours:
    in each step a rank sends at most one of them and receives at most one. Where it is as good, and in large graphs,
    they go by distance: in each step each rank sends to the one that is so far behind it.
    """
    steps = np.ones(len(source), dtype=np.int64)
    large = np.flatnonzero(weight > SMALL)
    if not len(large):
        return steps
    if len(large) < len(source):
        source, target, weight = source[large], target[large], weight[large]
    distances, by_distance = numbered((target - source) % ranks)
    least = max(np.bincount(source).max(), np.bincount(target).max())
    if len(distances) > least and len(large) <= _MOST_COLOURED:
        by_distance = np.array(coloured(graph(source.tolist(), target.tolist(), weight.tolist())), dtype=np.int64)
    steps[large] = by_distance + 1
    return steps


def graph(source: list[int], target: list[int], weight: list[int]) -> nx.Graph[Rank]:
    """The graph of messages, senders on one side and receivers on the other."""
    import networkx as nx  # not at start-up: most plans have no colours to find

    found: nx.Graph[Rank] = nx.Graph()
    for number, (a, b, size) in enumerate(zip(source, target, weight, strict=True)):
        found.add_edge(("sends", a), ("receives", b), weight=size, number=number)
    return found


def coloured(messages: nx.Graph[Rank]) -> list[int]:
    """The round of each message, from 0 on, in as many rounds as a rank has messages at most.

    Each round is a matching that leaves out no rank that has as many messages left as rounds may follow (by König's
    theorem there is one), and the heaviest such, so that long messages travel beside long ones.
    """
    import networkx as nx

    left = messages.copy()
    found = [0] * messages.number_of_edges()
    most = 1 + sum(size for _, _, size in messages.edges(data="weight", default=0))
    number = 0
    while left.number_of_edges():
        degree = dict(left.degree())
        busiest = max(degree.values())
        for a, b, edge in left.edges(data=True):
            edge["value"] = edge["weight"] + most * ((degree[a] == busiest) + (degree[b] == busiest))
        for a, b in nx.max_weight_matching(left, weight="value"):
            found[left.edges[a, b]["number"]] = number
            left.remove_edge(a, b)
        number += 1
    return found
