"""How much of each cell of a picture is allowed."""

from __future__ import annotations

import numpy as np
import pytest

import attnspec
from attnspec.analysis.figure import LEGEND, Figure
from attnspec.analysis.picture import PARTIAL, cells
from attnspec.analysis.shares import shares
from attnspec.relation.lower import lower
from attnspec.relation.sizes import Sizes


@pytest.mark.parametrize(
    ("name", "n", "n_q", "most"),
    [("window", 8000, 100, 7), ("dilated", 300, 300, 32), ("longformer", 130, 130, 9), ("longnet", 4200, 65, 3)],
)
def test_shares_are_those_of_the_mask(name: str, n: int, n_q: int, most: int) -> None:
    spec, sizes = attnspec.read(name), Sizes(n, n_q, 8, 8, 1, True)
    found = shares(lower(spec, 8, 8, 1), sizes, 1, 0, most)
    mask = spec.mask(n, n_q, 8)[0, 1] > 0
    height, width = -(-n_q // most), -(-n // most)
    for (i, j), share in np.ndenumerate(found):
        block = mask[i * height : (i + 1) * height, j * width : (j + 1) * width]
        if len(block) == height:  # the last rows of a picture may be fewer, and are then looked at more than once
            assert share == pytest.approx(block.mean(), abs=1e-6)


def test_rates_are_told_apart() -> None:
    """Each branch of LongNet is lighter than the one inside it."""
    spec, sizes = attnspec.read("longnet"), Sizes(16_384, 16_384, 1, 1, 1, True)
    relation = lower(spec, 1, 1, 1)
    picture, share = cells(relation, sizes, most=64), shares(relation, sizes, 0, 0, 64)
    inner, middle, outer = (12, 4), (24, 4), (40, 4)
    assert all(picture[at] == PARTIAL for at in (inner, middle, outer))
    assert share[inner] > 1.5 * share[middle] > 2 * share[outer] > 0
    image = np.asarray(Figure(picture, "longnet", 0, 16_384, 16_384, LEGEND, share).image().convert("L"))
    shades = [int(image[56 + 12 * row + 6, 76 + 12 * column + 6]) for row, column in (inner, middle, outer)]
    assert shades[0] < shades[1] < shades[2] < 255
