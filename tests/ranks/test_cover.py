"""Items cover the relation exactly once: proven on the sets, and seen pair by pair at small lengths."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings

from attnspec.codegen.ranks import parts
from attnspec.codegen.ranks.needs import within
from attnspec.codegen.ranks.patterns import patterns
from attnspec.codegen.ranks.planned import Schedule
from attnspec.codegen.ranks.runs import positions
from attnspec.codegen.ranks.schedule import Item
from attnspec.relation.presburger import Pairs
from tests.ranks.cases import Call, calls


def rectangle(item: Item) -> Pairs:
    return Pairs.read(f"{within('x', item.queries)} and {within('y', item.keys)}")


def all_items(plan: Schedule) -> list[Item]:
    return [item for rank in range(plan.ranks) for item in plan.items(rank)]


def require_cover(plan: Schedule) -> None:
    """The items of each branch and head are disjoint, and their union has all pairs of the pattern: as sets."""
    for one in patterns(plan.relation, plan.sizes).items:
        boxes = [rectangle(i) for i in all_items(plan) if (i.branch, i.heads) == (one.branch, one.heads)]
        union = reduce(Pairs.union, boxes, Pairs.read("false"))
        assert union.intersection(one.pairs).equals(one.pairs)
        seen = Pairs.read("false")
        for box in boxes:
            assert box.intersection(seen).is_empty()
            seen = seen.union(box)


def require_masks(plan: Schedule) -> None:
    """The same, and the pairs of each item, from masks; and items are where their queries or keys are."""
    relation, sizes = plan.relation, plan.sizes
    mask = np.zeros((plan.branches, sizes.heads, sizes.n, sizes.n), dtype=bool)
    for one in patterns(relation, sizes).items:
        low, high = one.heads or (0, sizes.heads)
        mask[one.branch, low:high] = relation.cells(sizes, low, 0, one.pairs)
    times, work = np.zeros(mask.shape, dtype=np.int64), np.zeros(plan.ranks, dtype=np.int64)
    for item in all_items(plan):
        low, high = item.heads or (0, sizes.heads)
        queries, keys = positions([item.queries]), positions([item.keys])
        place = np.ix_([item.branch], range(low, high), queries, keys)
        times[place] += 1
        assert item.pairs == mask[place].sum() > 0
        assert item.place in (item.asker, item.keeper)
        assert (item.step == 0) == (item.asker == item.keeper)
        assert (plan.shards.rows_of(item.asker, queries[mask[place].any((0, 1, 3))]) >= 0).all()
        assert (plan.shards.rows_of(item.keeper, keys[mask[place].any((0, 1, 2))]) >= 0).all()
        work[item.place] += item.pairs
    assert (times[mask] == 1).all()
    assert times.max() <= 1
    assert (plan.work == work).all()


@settings(max_examples=15)
@given(calls())
def test_items_cover_all_pairs_once(call: Call) -> None:
    plan = call.plan()
    require_masks(plan)
    if call.n <= 20:
        require_cover(plan)


@pytest.mark.slow
@settings(max_examples=100)
@given(calls())
def test_items_cover_all_pairs_once_as_sets(call: Call) -> None:
    require_cover(call.plan())


@pytest.mark.slow
@pytest.mark.parametrize(("gap", "runs"), [(1, 1 << 13), (1, 0), (32, 0)])
@settings(max_examples=60)
@given(calls())
def test_however_parts_are_found(gap: int, runs: int, call: Call) -> None:
    """With cuts at small gaps, and with pairs of chunks looked at one by one, or by classes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "_GAP", gap)
        patch.setattr(parts, "_MOST_RUNS", runs)
        patch.setattr(parts, "_RUNS_EACH", 16 if runs else 0)
        require_masks(call.plan())


@pytest.mark.slow
@settings(max_examples=30)
@given(calls(longest=3000))
def test_long_calls(call: Call) -> None:
    require_cover(call.plan())
