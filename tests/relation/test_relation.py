"""Spec, relation and plan mean the same mask; counts are its sums; questions are answered as brute force does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import attnspec
from attnspec.codegen.cost.cost import cost
from attnspec.codegen.plan.choose import plan
from attnspec.codegen.plan.table import table
from attnspec.codegen.plan.visits import counts
from attnspec.codegen.tiles import Tile
from attnspec.relation.count import TooIrregular, count, row_counts
from attnspec.relation.lower import lower
from attnspec.relation.presburger import TooHard
from attnspec.relation.sizes import Sizes
from tests.support.strategies import Case, cases
from tests.support.tiles import tile_kinds

TILES = st.sampled_from([Tile(16, 16), Tile(4, 8), Tile(8, 3), Tile(1, 1), Tile(64, 64)])


@given(cases())
def test_relation_means_the_spec(case: Case) -> None:
    spec = case.spec()
    sizes = case.sizes()
    assert (lower(spec, case.heads).mask(sizes) == spec.mask(case.n, case.n_q, case.heads)).all()


@given(cases(), TILES)
def test_plan_means_the_spec_in_both_directions(case: Case, size: Tile) -> None:
    spec = case.spec()
    sizes = case.sizes()
    made = plan(lower(spec, case.heads), size)
    want = spec.mask(case.n, case.n_q, case.heads)
    assert (counts(made, sizes) == want).all()
    assert (counts(made, sizes, transposed=True) == want).all()


@given(cases(), TILES)
def test_tables_list_what_loops_visit(case: Case, size: Tile) -> None:
    spec = case.spec()
    sizes = case.sizes()
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
    sizes = case.sizes()
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


def test_counts_at_a_billion_tokens_are_closed_forms() -> None:
    n = 10**9
    sizes = Sizes(n, n, 8, 8, 1)

    def pairs(text: str) -> int:
        return cost(plan(lower(attnspec.read(text), 8)), sizes, 64, 64, 4).pairs // 8

    assert pairs("attention a { attend causal }") == n * (n + 1) // 2
    assert pairs("attention a { attend window(512) }") == 512 * n - 512 * 511 // 2
    assert pairs("attention a { attend q // 1000 == k // 1000 }") == n * 1000
    assert pairs("attention a { attend q % 7 == k % 7 }") == sum((n // 7 + (r < n % 7)) ** 2 for r in range(7))


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
    assert not made.passes[0].cut.proven
    assert "not proven" in str(made)
    assert (counts(made, Sizes(200, 200)) == spec.mask(200)).all()


@example(case=Case("attention a { attend q <= k }", {}, 3, 3, 1))
@given(cases())
def test_growth_of_length_only_adds_rows(case: Case) -> None:
    """A pattern that does not mention n says the same of a pair at every length."""
    spec = case.spec()
    classes = lower(spec, case.heads).classes
    if not any(item.pairs.depends_on(name) for item in classes for name in ("n", "n_q")):
        short, long = (spec.mask(m, m, case.heads) for m in (case.n, case.n + 9))
        assert (long[:, :, : case.n, : case.n] == short).all()
