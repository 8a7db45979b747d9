"""Rounds of messages: in each a rank sends one long message and receives one, in as few as there can be."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from attnspec.codegen.ranks.rounds import SMALL, rounds

EDGES = st.sets(st.tuples(st.integers(0, 8), st.integers(0, 8)).filter(lambda e: e[0] != e[1]), min_size=1, max_size=30)


@settings(max_examples=25)
@given(EDGES, st.integers(0, 5))
def test_rounds_are_fewest(edges: set[tuple[int, int]], small: int) -> None:
    source, target = (np.array(side, dtype=np.int64) for side in zip(*sorted(edges), strict=True))
    weight = np.full(len(source), 2 * SMALL)
    weight[:small] = 9
    steps = rounds(source, target, weight, 9)
    assert (steps[weight <= SMALL] == 1).all()
    large = weight > SMALL
    most = max(np.bincount(side[large], minlength=1).max() for side in (source, target))
    assert steps.max() <= max(1, most)
    for side in (source, target):
        taken = list(zip(steps[large].tolist(), side[large].tolist(), strict=True))
        assert len(set(taken)) == len(taken)


def test_all_to_all_goes_by_distance() -> None:
    source, target = (a.ravel() for a in np.meshgrid(np.arange(6), np.arange(6), indexing="ij"))
    kept = source != target
    source, target = source[kept], target[kept]
    assert (rounds(source, target, np.full(30, 2 * SMALL), 6) == (target - source) % 6).all()
