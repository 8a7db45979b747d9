"""LongNet's mixture: the pairs are the published ones, and each branch lies in the layout of its own rate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import attnspec
from attnspec.codegen.cost.cost import cost
from attnspec.codegen.layouts.comb import Comb
from attnspec.codegen.layouts.residue import IDENTITY, Residue
from attnspec.codegen.plan.choose import plan
from attnspec.codegen.plan.visits import counts
from attnspec.relation.lower import lower
from attnspec.relation.sizes import Sizes
from tests.support.patterns import MIXTURES


def test_layouts_of_published_longnet() -> None:
    """Rates 6 and 12 do not divide their segments; hardly a pair is computed in vain all the same."""
    branches = [(2048, 1), (4096, 2), (8192, 4), (16384, 6), (32768, 12)]
    made = plan(lower(attnspec.read(MIXTURES["longnet"], branches=branches)))
    assert [item.layout for item in made.passes][:3] == [IDENTITY, Residue(2), Residue(4)]
    assert [(item.layout.segment, item.layout.rate) for item in made.passes if isinstance(item.layout, Comb)] == [
        (16384, 6),
        (32768, 12),
    ]
    assert cost(made, Sizes(32768, 32768), 64, 64, 4).waste < 1.1


def test_layouts_of_longnet() -> None:
    """Each branch lies in the layout of its own rate, and each pair counts as often as there are branches with it."""
    spec = attnspec.read(MIXTURES["longnet"])
    made = plan(lower(spec))
    assert [(item.branch, item.layout) for item in made.passes] == [(0, IDENTITY), (1, Residue(2)), (2, Residue(4))]
    for n, n_q in ((150, 150), (130, 70), (40, 90), (3, 3)):
        want = spec.mask(n, n_q, 4)
        assert n < 16 or want.max() == 3
        for transposed in (False, True):
            assert (counts(made, Sizes(n, n_q, 4, 4), transposed) == want).all()


def longnet_by_hand(n: int, h: int, branches: list[tuple[int, int]]) -> np.ndarray[Any, Any]:
    """The published branches, one position after another: which pairs, and in how many branches."""
    counts = np.zeros((n, n), dtype=np.int64)
    for w, r in branches:
        for start in range(0, n, w):
            taken = [i for i in range(start, min(start + w, n)) if (i - start) % r == h % r]
            for q in taken:
                for k in taken:
                    counts[q, k] += k <= q
    return counts


@pytest.mark.parametrize("branches", [[(16, 1), (32, 2), (64, 4)], [(16, 6)], [(9, 1), (20, 3)]])
def test_longnet_as_published(branches: list[tuple[int, int]]) -> None:
    """Also where rates do not divide the segments, and the positions that a head takes shift from one to the next."""
    spec = attnspec.read(MIXTURES["longnet"], branches=branches)
    want = np.stack([longnet_by_hand(150, h, branches) for h in range(4)])
    assert (spec.mask(150, heads=4)[0] == want).all()
    made = plan(lower(spec))
    assert (counts(made, Sizes(150, 150, 4, 4))[0] == want).all()
    assert (counts(made, Sizes(150, 150, 4, 4), transposed=True)[0] == want).all()
