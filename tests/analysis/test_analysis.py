"""Questions about a pattern are answered as brute force on its mask answers them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import attnspec
from attnspec.analysis.cache_need import cache_need
from attnspec.analysis.compare import compare
from attnspec.analysis.empty_rows import empty_rows
from attnspec.analysis.picture import EMPTY, FULL, PARTIAL, cells
from attnspec.analysis.reach import reach
from attnspec.relation.lower import lower
from attnspec.relation.presburger import TooHard
from attnspec.relation.sizes import Sizes
from attnspec.spec.spec import Spec
from tests.support.strategies import Case, cases


@given(cases())
def test_empty_rows(case: Case) -> None:
    spec = case.spec()
    sizes = case.sizes()
    relation = lower(spec, case.heads)
    mask = spec.mask(case.n, case.n_q, case.heads)[0]
    found = {item.h: item for item in empty_rows(relation, sizes)}
    for h in range(case.heads):
        item = relation.of_head(h)
        named = h if item.pairs.depends_on("h") else (0 if item.heads is None else item.heads[0])
        empty = np.flatnonzero(~mask[h].any(1))
        assert (named in found) == bool(len(empty))
        if len(empty):
            assert (found[named].rows, found[named].first) == (len(empty), empty[0])


@given(cases(size=1), cases(size=1))
def test_comparison_finds_the_first_difference(a: Case, b: Case) -> None:
    """A witness is a real difference; where there is none, masks at many sizes are equal."""
    specs = a.spec(), b.spec()
    try:
        found = compare(*(lower(s, 4) for s in specs))
    except TooHard:
        return
    for witness, (mine, other) in ((found.first_only, specs), (found.second_only, specs[::-1])):
        if witness is None:
            for n, n_q in ((1, 1), (5, 5), (9, 4), (4, 9), (14, 14)):
                masks = [s.mask(n, n_q, 4) for s in (mine, other)]
                assert not (masks[0] & ~masks[1]).any()
        else:
            w = witness
            masks = [s.mask(w.n, w.n_q, w.heads, w.batch)[w.b, w.h, w.row, w.k] for s in (mine, other)]
            assert masks == [True, False]


def decode_by_force(spec: Spec, h: int, length: int, horizon: int) -> int:
    live = np.zeros(length, dtype=bool)
    for q in range(length, horizon):
        live |= spec.mask(q + 1, 1, 4)[0, h, 0, :length]
    return int(live.sum())


@pytest.mark.parametrize(
    "text",
    [
        "attention a { attend window(7) }",
        "attention a { attend causal and (q - k) % 3 == 0 }",
        "attention a { attend sinks(2)  attend window(5)  within causal }",
        "attention a { attend q // 8 == k // 8 and k <= q }",
        "attention a { attend 0 <= q - k <= 3 * h }",
        "attention a(w = [2, 5, 2, 9]) { attend 0 <= q - k <= w[h] }",
        "attention a { attend k >= n - 4 }",
    ],
)
def test_cache_need(text: str) -> None:
    spec = attnspec.read(text)
    lengths = (1, 5, 16, 40)
    relation = lower(spec, 4)
    for need in cache_need(relation, lengths, Sizes(1, 1, 4, 4)):
        for h in range(4) if need.heads is None else need.heads:
            assert need.keys == tuple(decode_by_force(spec, h, length, 80) for length in lengths)


def test_cache_need_and_reach_know_the_batch() -> None:
    relation = lower(attnspec.read("attention a { attend 0 <= q - k < 10 * (b + 1)  attend b == batch - 1 and k < 5 }"))
    sizes = Sizes(60, 60, 1, 1, 2)
    assert [(need.b, need.keys) for need in cache_need(relation, (60,), sizes)] == [(0, (9,)), (1, (24,))]
    assert reach((relation, sizes)).layers == 7  # entry 0: 9 positions a layer


def test_difference_holds_only_where_both_are_defined() -> None:
    part = lower(attnspec.read("attention a { attend h * 8 // heads == 0 and q >= k }"), 8)
    found = compare(part, lower(attnspec.read("causal"), 8)).second_only
    assert found is not None
    assert (found.heads, found.h > 0) == (8, True)


@pytest.mark.parametrize(
    "text",
    [
        "attention a { attend window(5) }",
        "attention a { attend causal }",
        "attention a { attend q // 8 == k // 8 }",
        "attention a { attend q - k in [1, 2, 4, 8, 16] }",
        "attention a { attend k < 2  attend |q - k| <= 3 }",
        "attention a { attend (q - k) % 5 == 0 and k <= q  attend 0 <= q - k < 5 }",
    ],
)
@pytest.mark.parametrize("n", [1, 2, 37, 64])
def test_reach(text: str, n: int) -> None:
    spec = attnspec.read(text)
    layer = spec.mask(n)[0, 0] | np.eye(n, dtype=bool)
    lower_half = np.tri(n, dtype=bool)
    found = reach((lower(spec), Sizes(n, n)))
    reached, layers = layer, 1
    by_layers = {1: layer[lower_half].mean()}
    while not reached[lower_half].all() and layers < 2 * n:
        reached = reached @ layer
        layers += 1
        by_layers[layers] = reached[lower_half].mean()
    assert found.layers == (layers if reached[lower_half].all() else None)
    for number, share in found.shares:
        assert share == pytest.approx(by_layers.get(number, by_layers[layers]))


@given(cases(), st.sampled_from([4, 7, 32]))
def test_pictures(case: Case, most: int) -> None:
    spec = case.spec()
    sizes = case.sizes()
    mask = spec.mask(case.n, case.n_q, case.heads)[0, 0]
    try:
        picture = cells(lower(spec, case.heads), sizes, 0, 0, most)
    except TooHard:
        return
    height, width = (max(1, -(-length // most)) for length in (case.n_q, case.n))
    for y, row in enumerate(picture):
        for x, cell in enumerate(row):
            part = mask[y * height : (y + 1) * height, x * width : (x + 1) * width]
            assert cell == (FULL if part.all() else PARTIAL if part.any() else EMPTY)
