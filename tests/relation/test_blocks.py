"""Pairs and tiles that repeat from block to block are counted once, and right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import attnspec
from attnspec.codegen.layouts.comb import Comb
from attnspec.codegen.layouts.grid import Grid
from attnspec.codegen.layouts.region import Region, Tiles
from attnspec.codegen.plan import area as areas
from attnspec.codegen.tiles import Tile
from attnspec.relation import blocks, effort
from attnspec.relation.count import count
from attnspec.relation.lower import lower
from attnspec.relation.sizes import Sizes


@given(
    st.integers(2, 9), st.integers(1, 9), st.booleans(), st.integers(0, 60), st.integers(0, 60), st.integers(-20, 60)
)
def test_blocks_are_counted_as_pairs_are(size: int, rate: int, causal: bool, rows: int, keys: int, first: int) -> None:
    text = f"attention a {{ attend segment({size}) and q % {size} % {rate} == k % {size} % {rate} }}"
    spec = attnspec.read(text.replace(" }", "  within causal }") if causal else text)
    pairs = lower(spec).classes[0].pairs.fix(**Sizes(0, 0).parameters(0, 0))
    want = count(blocks._cut(pairs, range(first, first + rows), keys), rows, first) if rows and keys else 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_CHEAP", 0)
        assert blocks.count_pairs(pairs, range(first, first + rows), keys) == want


def test_few_rows_are_counted_at_once_however_long_the_period() -> None:
    """More queries than keys: to look for blocks in what is cut off takes the solver longer than all pairs."""
    of = "(q % 32768 % 12 == h % 12 and k % 32768 % 12 == h % 12)"
    spec = attnspec.read(f"attention a {{ attend segment(32768) and {of}  within causal }}")
    for h in (0, 3):
        pairs = lower(spec, 4).of_head(h).pairs.fix(**Sizes(90, 300, 4).parameters(h, 0))
        with effort.stage():
            found = blocks.count_pairs(pairs, range(-210, 90), 90)
            assert effort.left() > 0.99 * effort.STAGE
        assert found == sum(range(1, len(range(h, 90, 12)) + 1))


@pytest.mark.parametrize("align", ["end", "start"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("n", "n_q"), [(500, 500), (517, 517), (517, 400), (300, 517), (517, 3), (480, 519)])
def test_areas_of_blocks_add_up(align: str, causal: bool, n: int, n_q: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = "segment(40) and q % 40 % 3 == 1 and k % 40 % 3 == 1"
    text = f"attention a {{ align {align}  attend {inside}{' and k <= q' if causal else ''} }}"
    part = lower(attnspec.read(text)).classes[0].parts[0]
    tile, layout = Tile(8, 4), Comb.of(40, 3, 8)
    cut: Tiles = layout.cut(Region("all pairs", part.pred, part.pairs, part.sure), tile)
    sizes = Sizes(n, n_q, aligned_end=align == "end")
    assert sum(often for _, often in areas._parts(cut, layout, tile, sizes)) > 1 or n_q == 3
    found = areas.area(cut, layout, tile, sizes, 0, 0)
    monkeypatch.setattr(areas, "_blocked", lambda *_: False)
    assert found == areas.area(cut, layout, tile, sizes, 0, 0)


@pytest.mark.parametrize(("n", "n_q"), [(720, 720), (800, 800), (801, 700), (790, 9)])
def test_areas_of_windows_add_up(n: int, n_q: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = attnspec.read("swin", params={"width": 12, "window": 5})
    part = lower(spec).classes[0].parts[0]
    tile, layout = Tile(16, 32), Grid(12, (1, 5), (5, 5), (16, 32))
    cut = layout.cut(Region("all pairs", part.pred, part.pairs, part.sure), tile)
    assert layout.block(tile) == (60, 15, 3)
    assert n_q == 9 or sum(often for _, often in areas._parts(cut, layout, tile, Sizes(n, n_q))) > 1
    found = areas.area(cut, layout, tile, Sizes(n, n_q), 0, 0)
    monkeypatch.setattr(areas, "_blocked", lambda *_: False)
    assert found == areas.area(cut, layout, tile, Sizes(n, n_q), 0, 0)
    monkeypatch.undo()
    if n == n_q:
        assert found.computed == int(spec.mask(n).sum())


def test_longnet_at_a_billion_tokens() -> None:
    """Exact at every length: within each segment of w, heads see every r-th position, causally."""
    attend = attnspec.compile("longnet", branches=[[2048, 1], [32768, 12]])
    for n, heads in ((10**6, 2), (10**9, 2)):
        want = 0
        for w, r in ((2048, 1), (32768, 12)):
            for h in range(heads):
                whole, rest = (len(range(h % r, size, r)) for size in (w, n % w))
                want += n // w * (whole * (whole + 1) // 2) + rest * (rest + 1) // 2
        found = attend.cost(n=n, heads=heads)
        assert found.pairs == want
        assert 1 < found.waste < 1.1


@pytest.mark.slow
@pytest.mark.parametrize("n", [10**6, 10**9])
def test_heads_that_differ_are_counted_within_a_stage(n: int) -> None:
    """Twelve heads in five branches: all that a cost counts."""
    branches = dict(attnspec.read("longnet").params)["branches"]
    want = 0
    for w, r in branches:
        for h in range(12):
            whole, rest = (len(range(h % r, size, r)) for size in (w, n % w))
            want += n // w * (whole * (whole + 1) // 2) + rest * (rest + 1) // 2
    assert attnspec.compile("longnet").cost(n=n, heads=12).pairs == want


def test_clauses_of_a_branch_are_restricted_by_its_own_lines() -> None:
    branches = "branch { attend k < 8  attend k < 4  within q < 2 } branch { attend k < 6  within q >= 2 }"
    assert attnspec.compile(f"attention a {{ mix {{ {branches} }} }}").cost(n=16).heads[0].clauses == (16, 8, 84)
