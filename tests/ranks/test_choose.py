"""Candidates for ranks: which are weighed, which wins, and why."""

from __future__ import annotations

from typing import Any

import pytest

from attnspec.check.check import check_text
from attnspec.codegen.ranks import planned
from attnspec.codegen.ranks.choose import plan_ranks
from attnspec.codegen.ranks.placed import placed
from attnspec.codegen.ranks.plan import RankPlan
from attnspec.codegen.ranks.refused import CannotSplit
from attnspec.codegen.ranks.shards import Shards
from attnspec.language.load import load
from attnspec.relation.count import TooIrregular
from attnspec.relation.lower import lower
from attnspec.relation.presburger import TooHard
from attnspec.relation.sizes import Sizes
from tests.ranks.cases import PATTERNS


def plan(spec: str, ranks: int, n: int = 4096, **options: Any) -> RankPlan:
    text, filename, name = load(spec)
    return plan_ranks(lower(check_text(text, name, {}, filename), 8, 2, 1), Sizes(n, n, 8, 2), ranks, **options)


def names(found: RankPlan) -> list[str]:
    return [one.name for one in found.candidates if one.figures is not None]


@pytest.mark.parametrize("ranks", [3, 4])
def test_helpers_and_zigzag_balance_causal_attention(ranks: int) -> None:
    found = plan("causal", ranks, 1 << 16)
    weighed = {one.name: one.figures for one in found.candidates if one.figures is not None}
    assert list(weighed) == ["contiguous", "zigzag", "helper"]
    assert weighed["contiguous"].balance > 1.6
    assert max(weighed["zigzag"].balance, weighed["helper"].balance) < 1.01
    assert found.candidates[found.chosen].name in ("zigzag", "helper")
    assert "as fast as" in found.reason
    assert plan("causal", ranks, shard="contiguous").figures.balance < 1.01  # asked for: with helpers


def test_residues_are_weighed_where_strides_share_a_factor() -> None:
    found = plan("attention d { attend (q - k) % 4 == 0 within window(1024) }", 4)
    assert "residue" in names(found)
    assert (found.candidates[found.chosen].name, found.figures.received) == ("residue", 0)
    assert "which has to send" in found.reason or "times the mean work" in found.reason
    assert "residue" not in names(plan("attention d { attend (q - k) % 4 == 0 within window(1024) }", 3))


def test_blocks_are_kept_whole_where_that_sends_less() -> None:
    found = plan("attention c { attend q // 1000 == k // 1000 }", 4, 7000)
    received = {one.name: one.figures.received for one in found.candidates if one.figures is not None}
    assert received["grid"] == 0
    assert received["contiguous"] > 0
    assert "grid" not in names(plan("attention c { attend q // 500 == k // 500 }", 4, 8000))


def test_greedy_is_weighed_where_the_others_are_out_of_balance() -> None:
    lumps = "attention l { attend k <= q within q // 512 == 1 or q // 512 == 5 or q // 512 == 7 }"
    found = plan(lumps, 4)
    assert "greedy" in names(found)
    assert "greedy" not in names(plan("causal", 4))


def test_one_rank_sends_nothing() -> None:
    found = plan("causal", 1)
    assert (names(found), found.figures.received, found.figures.held) == (["contiguous"], 0, 4096)
    assert "nothing: there is one rank" in str(found)
    assert found.speed == pytest.approx(1.0, abs=0.9)


def test_shards_that_the_solver_cannot_cut_at_are_left_out() -> None:
    """LongNet's positions taken by heads, dealt out by residues that fit them badly."""
    spec = check_text(f"attention a {{ {PATTERNS['longnet']} }}")

    def longnet(shard: str) -> RankPlan:
        return plan_ranks(lower(spec, 6, 6, 1), Sizes(61, 61, 6, 6), 7, shard=shard)

    said = "a cannot be shared among 7 ranks by residue shards: the integer set solver reached its operation limit"
    with pytest.raises(CannotSplit, match=said):
        longnet("residue")
    assert longnet("auto").figures.pairs > 0


@pytest.mark.parametrize("error", [TooHard("too hard"), TooIrregular()])
@pytest.mark.parametrize("kind", ["contiguous", "zigzag", "residue", "greedy"])
def test_whatever_the_solver_says_another_candidate_is_chosen(
    kind: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = "attention d { attend (q - k) % 4 == 0 and k <= q within q // 1024 != 2 }"

    def placed_(patterns: Any, shards: Shards, *options: Any) -> Any:
        if kind in (shards.kind, "all"):
            raise error
        return placed(patterns, shards, *options)

    assert kind in [*names(plan(spec, 4)), "greedy"]
    monkeypatch.setattr(planned, "placed", placed_)
    found = plan(spec, 4)
    assert kind not in names(found)
    assert found.candidates[found.chosen].name != kind
    if kind != "greedy":
        assert (kind, str(error)) in [(one.name, one.why) for one in found.candidates]
    with pytest.raises(CannotSplit, match=f"d cannot be shared among 4 ranks by {kind} shards: {error}"):
        plan(spec, 4, shard=kind)
    kind = "all"
    with pytest.raises(CannotSplit, match="d cannot be shared among 4 ranks by contiguous shards: "):
        plan(spec, 4)
