"""Spec, relation and plan mean the same mask; counts are its sums; questions are answered as brute force does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import attnspec
from attnspec.analysis.cache_need import cache_need
from attnspec.analysis.compare import compare
from attnspec.analysis.empty_rows import empty_rows
from attnspec.analysis.picture import EMPTY, FULL, PARTIAL, cells
from attnspec.analysis.reach import reach
from attnspec.codegen.cost.cost import cost
from attnspec.codegen.plan.choose import plan
from attnspec.codegen.plan.plan import Pass, Tile
from attnspec.codegen.plan.table import table
from attnspec.relation.count import TooIrregular, count, row_counts
from attnspec.relation.lower import lower
from attnspec.relation.presburger import TooHard
from attnspec.relation.sizes import Sizes
from attnspec.spec.evaluate import holds
from attnspec.spec.spec import Spec
from tests.support.strategies import Case, cases

TILES = st.sampled_from([Tile(16, 16), Tile(4, 8), Tile(8, 3), Tile(1, 1), Tile(64, 64)])


def sizes_of(case: Case, spec: Spec) -> Sizes:
    return Sizes(case.n, case.n_q, case.heads, case.heads, 1, spec.align == "end")


@given(cases())
def test_relation_means_the_spec(case: Case) -> None:
    spec = case.spec()
    sizes = sizes_of(case, spec)
    assert (lower(spec, case.heads).mask(sizes) == spec.mask(case.n, case.n_q, case.heads)).all()


@given(cases(), TILES)
def test_plan_means_the_spec_in_both_directions(case: Case, size: Tile) -> None:
    spec = case.spec()
    sizes = sizes_of(case, spec)
    made = plan(lower(spec, case.heads), size)
    want = spec.mask(case.n, case.n_q, case.heads)
    assert (made.counts(sizes) == want).all()
    assert (made.counts(sizes, transposed=True) == want).all()


def tile_kinds(
    item: Pass, sizes: Sizes, h: int, c: int = 0, whole: Sizes | None = None
) -> dict[tuple[int, int], tuple[bool, bool]]:
    """For each tile of the call, by looking at the pairs of a pass: does it hold a live one, and are all live?

    Tiles at the borders are cut there, unless ``whole`` are the sizes of a call that holds all of them.
    """
    found, inside = {}, whole or sizes
    for i in item.query_tiles(sizes, c):
        for j in item.key_tiles(sizes, c):
            q = item.layout.query_positions(i, inside, c, item.tile.rows)[:, None]
            k = item.layout.key_positions(j, inside, c, item.tile.columns)[None, :]
            part = np.broadcast_to(holds(item.pred, {**sizes.parameters(h, 0), "q": q, "k": k}), (q.size, k.size))
            found[i, j] = bool(part.any()), bool(part.all())
    return found


@given(cases(), TILES)
def test_tables_list_what_loops_visit(case: Case, size: Tile) -> None:
    spec = case.spec()
    sizes = sizes_of(case, spec)
    made = plan(lower(spec, case.heads), size, "identity")
    for h in range(case.heads):
        (item,) = made.of_head(h).passes
        kinds = tile_kinds(item, sizes, h)
        for transposed, sweep, outer, name in (
            (False, item.forward, item.query_tiles(sizes), "i"),
            (True, item.backward, item.key_tiles(sizes), "j"),
        ):
            lists = table(item, sizes, h, 0, transposed)
            assert lists.start[-1] == len(lists.tiles)
            for row, at in enumerate(outer):
                listed = sorted(lists.row(row))
                if sweep.full is not None and sweep.partial is not None:
                    env = {**sizes.parameters(h, 0), "c": 0, name: at}
                    visited = [(t, True) for t in sweep.full.points(env)] + [
                        (t, False) for t in sweep.partial.points(env)
                    ]
                    assert listed == sorted(visited)
                tiles = [(t, at) if transposed else (at, t) for t, _ in listed]
                live = {ij for ij, (some, _) in kinds.items() if some and ij[1 if transposed else 0] == at}
                assert live <= set(tiles)


@given(cases(), TILES)
def test_counts_are_the_sums_of_the_mask(case: Case, size: Tile) -> None:
    spec = case.spec()
    sizes = sizes_of(case, spec)
    relation = lower(spec, case.heads)
    made = plan(relation, size, "identity")
    mask = spec.mask(case.n, case.n_q, case.heads)[0]
    found = cost(made, sizes, 8, 8, 4)
    assert found.pairs == mask.sum()
    visited = area = 0
    for h in range(case.heads):
        pieces = relation.at(sizes, h)
        positions = np.arange(case.n_q, dtype=np.int64) + sizes.first
        assert (row_counts(pieces, positions) == mask[h].sum(1)).all()
        assert count(pieces, case.n_q, sizes.first) == mask[h].sum()
        (item,) = made.of_head(h).passes
        lists = table(item, sizes, h, 0, False)
        for row, i in enumerate(item.query_tiles(sizes)):
            height = min((i + 1) * size.rows, sizes.first + sizes.n_q) - max(i * size.rows, sizes.first)
            for j, _ in lists.row(row):
                visited += 1
                area += height * min(size.columns, case.n - j * size.columns)
    assert found.full + found.partial == visited
    assert found.computed == area
    for group in found.heads:
        assert len(group.clauses) == len(relation.of_head(group.heads[0]).attend)


@given(cases())
def test_empty_rows(case: Case) -> None:
    spec = case.spec()
    sizes = sizes_of(case, spec)
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


@given(cases())
def test_transposing_twice_is_the_identity(case: Case) -> None:
    for item in lower(case.spec(), case.heads).classes:
        assert item.pairs.transpose().transpose().equals(item.pairs)


@given(cases(size=1), cases(size=1))
def test_union_covers_both_and_within_restricts(a: Case, b: Case) -> None:
    """``a or b`` holds all pairs of either; within leaves only pairs of both; difference and intersection split a."""
    one, two = (lower(c.spec(), 4).of_head(0).pairs for c in (a, b))
    union, both = one.union(two), one.intersection(two)
    assert one.within(union)
    assert two.within(union)
    assert both.within(one)
    assert both.within(two)
    assert one.difference(two).union(both).equals(one)
    assert one.difference(two).intersection(two).is_empty()


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


def test_counts_at_a_billion_tokens_are_closed_forms() -> None:
    n = 10**9
    sizes = Sizes(n, n, 8, 8, 1)

    def pairs(text: str) -> int:
        return cost(plan(lower(attnspec.read(text), 8)), sizes, 64, 64, 4).pairs // 8

    assert pairs("attention a { attend causal }") == n * (n + 1) // 2
    assert pairs("attention a { attend window(512) }") == 512 * n - 512 * 511 // 2
    assert pairs("attention a { attend q // 1000 == k // 1000 }") == n * 1000
    assert pairs("attention a { attend q % 7 == k % 7 }") == sum((n // 7 + (r < n % 7)) ** 2 for r in range(7))


@given(cases(), st.sampled_from([4, 7, 32]))
def test_pictures(case: Case, most: int) -> None:
    spec = case.spec()
    sizes = sizes_of(case, spec)
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


def test_irregular_patterns_are_refused_not_hung() -> None:
    """Large coprime divisors: an error in bounded time, never a hang or a wrong number."""
    bomb = (
        "attention a { attend " + " and ".join(f"(q + {p} * k) % {p} < {p - 5}" for p in (10007, 10009, 10037)) + " }"
    )
    relation = lower(attnspec.read(bomb))
    sizes = Sizes(10**9, 10**9)
    with pytest.raises((TooHard, TooIrregular)):
        count(relation.at(sizes), sizes.n_q)


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("attend q - k < 2 ** 62", 40),
        ("attend q * 2 ** 61 >= k * 2 ** 61", 40),
        ("attend (q - k) % (2 ** 61) == 3", 40),
        ("attend q // (2 ** 40) == k // (2 ** 40) and k <= q", 40),
        ("attend q * 10 ** 9 + k < 10 ** 10", 40),
    ],
)
def test_huge_constants_are_exact_or_refused(text: str, n: int) -> None:
    """Nothing overflows: a stage gives the mask that Python's own integers give, or says that it cannot."""
    spec = attnspec.read(f"attention a {{ {text} }}")
    clause = text.removeprefix("attend ")
    want = np.array([[eval(clause, {"q": q, "k": k}) for k in range(n)] for q in range(n)])
    assert (spec.mask(n)[0, 0] == want).all()
    relation = lower(spec)
    try:
        assert (relation.mask(Sizes(n, n))[0, 0] == want).all()
    except TooIrregular:
        assert "2 ** 6" in text
    try:
        q, k, v = torch.randn(3, 1, 1, n, 8).unbind(0)
        got = attnspec.compile(f"attention a {{ {text} }}")(q, k, v)
    except attnspec.SpecError as error:
        refused = error.diagnostics[0].code
        assert refused == "E405"
    else:
        scores = (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(~torch.from_numpy(want), float("-inf"))
        torch.testing.assert_close(got, torch.nan_to_num(torch.softmax(scores, -1)) @ v, atol=1e-5, rtol=1e-5)


def test_the_solver_budget_bounds_a_plan() -> None:
    """Where full tiles cannot be proven in the budget, all touched tiles are partial, and the plan says so."""
    text = (
        "attention a { attend (q - k) % 7 == 0 or (q + k) % 11 == 3 or q % 5 == k % 3 or q // 13 == k // 17 "
        "or 0 <= q - k < 50 }"
    )
    spec = attnspec.read(text)
    made = plan(lower(spec), Tile(64, 64))
    assert not made.passes[0].proven
    assert "not proven" in str(made)
    assert (made.counts(Sizes(200, 200)) == spec.mask(200)).all()


@example(case=Case("attention a { attend q <= k }", {}, 3, 3, 1))
@given(cases())
def test_growth_of_length_only_adds_rows(case: Case) -> None:
    """A pattern that does not mention n says the same of a pair at every length."""
    spec = case.spec()
    classes = lower(spec, case.heads).classes
    if not any(item.pairs.depends_on(name) for item in classes for name in ("n", "n_q")):
        short, long = (spec.mask(m, m, case.heads) for m in (case.n, case.n + 9))
        assert (long[:, :, : case.n, : case.n] == short).all()
