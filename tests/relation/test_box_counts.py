"""Pairs of many rectangles: what masks say, for sets of every kind, with and without strides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnspec.relation.box_counts import count_boxes
from attnspec.relation.count import runs
from attnspec.relation.presburger import Pairs

SETS = [
    "0 <= y <= x",
    "0 <= x - y < 5 and y >= 0",
    "(x - y) mod 4 = 0 and 0 <= y <= x",
    "y mod 8 >= 6 and 0 <= y < x",
    "floor(x / 5) = floor(y / 5) and y >= 0",
    "0 <= 2 * y <= 3 * x",
    "y >= 0 and floor(x / 3) mod 2 = floor(y / 4) mod 2",
    "y >= 0 and (x <= 3 or y <= 2 or -4 <= x - y <= 4)",
    "0 <= 3 * y <= x + 5",
    "y >= 0 and floor(x / 4) >= 3 * floor(y / 6)",
]
SIDE = st.tuples(st.integers(0, 40), st.integers(0, 30))


def require_counts(condition: str, stride: int, boxes: list[tuple[tuple[int, int], tuple[int, int]]]) -> None:
    mask = np.zeros((75, 75), dtype=bool)
    for run in runs(Pairs.read(f"{condition} and y < 75").pieces(), 75):
        for x, low, high in zip(run.x, run.low, run.high, strict=True):
            mask[x, low : high + 1 : run.step] = True
    sides = np.array(boxes, dtype=np.int64).reshape(-1, 2, 2)
    rows, keys = ((side[:, 0], side.sum(1)) for side in (sides[:, 0], sides[:, 1]))
    found = count_boxes(Pairs.read(condition).pieces(), rows, keys, stride)
    assert found.tolist() == [mask[a:b:stride, c:d:stride].sum() for a, b, c, d in zip(*rows, *keys, strict=True)]


@pytest.mark.parametrize("condition", SETS)
def test_shifted_boxes(condition: str) -> None:
    boxes = [((i, 12), (j, 12)) for i in range(0, 49, 12) for j in range(0, 49, 12)]
    for stride in (1, 2, 5):
        require_counts(condition, stride, boxes)


@pytest.mark.slow
@settings(max_examples=500)
@given(st.sampled_from(SETS), st.sampled_from([1, 1, 2, 3, 5, 8]), st.lists(st.tuples(SIDE, SIDE), min_size=1))
def test_any_boxes(condition: str, stride: int, boxes: list[tuple[tuple[int, int], tuple[int, int]]]) -> None:
    require_counts(condition, stride, boxes)
