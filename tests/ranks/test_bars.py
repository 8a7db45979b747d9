"""How well work is shared, how little is sent, and how long it takes to plan that."""

from __future__ import annotations

from time import thread_time
from typing import Any

import numpy as np
import pytest

import attnspec
from attnspec.check.check import check_text
from attnspec.codegen.ranks.exact import total
from attnspec.codegen.ranks.figures import figures
from attnspec.codegen.ranks.loads import loads
from attnspec.codegen.ranks.machines import MACHINES
from attnspec.codegen.ranks.planned import Schedule, schedule
from attnspec.codegen.ranks.refused import CannotSplit
from attnspec.codegen.ranks.shards import KINDS, shards
from attnspec.relation.lower import listed_heads, lower
from attnspec.relation.sizes import Sizes
from attnspec.spec import axes

LONG = 1 << 16


def plan(
    name: str, n: int, ranks: int, kind: str = "contiguous", heads: tuple[int, int] = (8, 2), **params: Any
) -> Schedule:
    return schedule(lower(attnspec.read(name, **params), heads[0]), Sizes(n, n, *heads), ranks, kind)


def share(made: Schedule) -> float:
    """What ranks receive, of what they would if all keys and values were gathered."""
    return float(made.received().sum() / (made.gathered * made.ranks))


@pytest.mark.parametrize("ranks", [2, 3, 4, 5, 8, 64])
def test_helpers_share_causal_attention_equally(ranks: int) -> None:
    made = plan("causal", 128 * ranks, ranks)
    assert (made.work == made.work[0]).all()
    assert made.work.sum() == 8 * (128 * ranks) * (128 * ranks + 1) // 2
    assert (loads(made).pairs.sum(0) == made.work).all()


def test_queries_travel_only_where_no_rank_is_made_the_busiest_by_it() -> None:
    for ranks in (2, 3, 4, 5):  # the last chunk is shorter than others, and its queries are fewer bytes than their keys
        work = plan("causal", 1001, ranks, "zigzag", heads=(8, 8)).work
        assert max(work) <= 1.02 * sum(work) / ranks


def test_zigzag_shares_causal_attention() -> None:
    for ranks in (2, 3, 4, 5, 64):
        work = plan("causal", 4096, ranks, "zigzag").work
        assert work.max() <= 1.01 * work.mean()


@pytest.mark.parametrize(
    ("name", "params", "kind", "ranks", "most"),
    [
        ("window", {"width": 1024}, "contiguous", 4, 0.02),
        ("longformer", {"width": 1024}, "contiguous", 4, 0.03),
        ("dilated", {"rate": 16}, "residue", 8, 0.0),
        ("dilated", {"rate": 16}, "residue", 16, 0.0),
        ("swin", {}, "grid", 4, 0.0),
        ("chunked", {}, "grid", 4, 0.0),
    ],
)
def test_little_is_sent(name: str, params: dict[str, int], kind: str, ranks: int, most: float) -> None:
    assert share(plan(name, LONG, ranks, kind, **params)) <= most


def test_global_rows_travel_as_queries() -> None:
    made = plan("longformer", LONG, 4, width=1024)
    rows = [one for rank in range(4) for one in made.messages(rank) if one.kind == "queries" and one.source == rank]
    assert [(one.source, [run.length for run in one.slices[0].runs]) for one in rows] == [(0, [16])] * 3
    assert made.work.max() <= 1.02 * made.work.mean()


@pytest.mark.slow
def test_longnet_receives_what_its_branches_take() -> None:
    assert share(plan("longnet", LONG, 8, heads=(8, 8))) <= 1 / 8
    assert all(item.queries.step == item.keys.step for item in plan("longnet", LONG, 8).items(3))


def test_greedy_shares_by_work() -> None:
    work = plan("causal", 4096, 4, "greedy").work
    assert work.max() <= 1.05 * work.mean()


@pytest.mark.parametrize("kind", KINDS)
def test_shards_hold_each_position_once(kind: str) -> None:
    for n in (0, 1, 2, 5, 16, 37):
        for ranks in (1, 2, 3, 7):
            made = shards(kind, n, ranks, block=3)
            places = np.concatenate([made.positions(rank) for rank in range(ranks)])
            assert sorted(places[places >= 0].tolist()) == list(range(n))
            for rank in range(ranks):
                mine = made.positions(rank)
                rows = made.rows_of(rank, mine[mine >= 0])
                assert rows.tolist() == list(range(len(rows)))
                assert (made.rows_of(rank, np.setdiff1d(np.arange(n), mine)) == -1).all()


def test_wrong_shards_are_named() -> None:
    with pytest.raises(ValueError, match="shards are contiguous, zigzag, residue, grid, greedy; not 'striped'"):
        shards("striped", 8, 2)
    with pytest.raises(ValueError, match="ranks must be a positive integer, not 0"):
        shards("zigzag", 8, 0)
    with pytest.raises(ValueError, match="residue shards have one chunk a rank, not 2"):
        shards("residue", 8, 2, 2)


def static() -> list[str]:
    """The shipped specs whose pairs no input decides, and that ranks can share."""
    found = []
    for name in attnspec.shipped():
        spec = attnspec.read(name)
        if not spec.inputs and spec.order is None and spec.recurrence is None:
            found.append(name)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["contiguous", "zigzag"])
@pytest.mark.parametrize("name", static())
def test_many_ranks_are_planned_in_two_seconds(name: str, kind: str) -> None:
    """1,024 ranks and 2^30 tokens: work, bytes and steps of each rank."""
    spec = attnspec.read(name)
    n, n_q = axes.lengths(spec.axes, 1 << 30) if spec.axes else (1 << 30, 1 << 30)
    heads = listed_heads(spec) or 32
    sizes = Sizes(n, n_q, heads, heads // 4, m=1 << 30)
    took = []
    for _ in range(2):
        start = thread_time()
        try:
            made = schedule(lower(spec, heads), sizes, 1024, kind, dim=128, itemsize=2)
        except CannotSplit:
            return
        assert made.work.min() > 0
        assert made.received().sum() == made.sent().sum()
        took.append(thread_time() - start)
    assert min(took) < 2


HUGE = 1 << 33


@pytest.mark.parametrize("kind", ["contiguous", "zigzag", "residue", "greedy"])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_counts_are_exact_at_the_largest_sizes(kind: str, ranks: int) -> None:
    """2^33 positions and 128 heads: more pairs in all, and in one rank's share, than 64 bits hold."""
    made = schedule(lower(attnspec.read("causal"), 128), Sizes(HUGE, HUGE, 128, 128, 64), ranks, kind, dim=4096)
    pairs = 128 * (HUGE * (HUGE + 1) // 2)
    assert total(made.work) == total(loads(made).pairs) == pairs
    assert sum(one.pairs for rank in range(ranks) for one in made.items(rank)) == pairs
    assert figures(made, MACHINES["h100"], "float32").pairs == 64 * pairs
    for backward in (False, True):
        assert total(made.sent(backward)) == total(made.received(backward))
    if (kind, ranks) == ("residue", 2):  # the other's keys, each head's: the last one no row before it sees
        assert made.received().tolist() == [(HUGE // 2 - at) * 128 * made.widths.key for at in (1, 0)]


@pytest.mark.parametrize("pattern", ["attend true", "attend |q - k| <= 3  attend q < 2  attend k < 2"])
def test_counts_of_single_rectangles_are_exact(pattern: str) -> None:
    relation = lower(check_text(f"attention a {{ {pattern} }}"), 128)
    for ranks in (1, 2):
        made = schedule(relation, Sizes(HUGE, HUGE, 128, 128), ranks)
        n = HUGE
        near = 7 * n - 12 + 4 * (n - 2) - 2 * (3 + 2)  # the band, and two rows and columns less what they have of it
        assert total(made.work) == 128 * (n * n if pattern == "attend true" else near)
