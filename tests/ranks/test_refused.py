"""Patterns that no plan is made for, and the reasons."""

from __future__ import annotations

import pytest

from attnspec.check.check import check_text
from attnspec.codegen.ranks import alike, parts
from attnspec.codegen.ranks.planned import schedule
from attnspec.codegen.ranks.refused import CannotSplit, HardToSplit, require_splittable
from attnspec.language.load import load
from attnspec.relation.lower import lower
from attnspec.relation.sizes import Sizes

SIZES = Sizes(256, 256, 8, 8)


def ask(spec: str, sizes: Sizes = SIZES) -> None:
    text, filename, name = load(spec)
    require_splittable(lower(check_text(text, name, {}, filename), 8, 8, 1), sizes)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("reformer", "orders all positions by what queries and keys hold"),
        ("block_table", "`keep` says in each call"),
        ("block_topk", "`top` says in each call"),
        ("bigbird", "`rand` says in each call"),
        ("tree", "`tree` says in each call"),
        ("rmt", "segments follow one another"),
        ("forgetting", "decay beside softmax, and parts of such rows have no kernels"),
    ],
)
def test_what_only_a_call_knows_is_refused(spec: str, reason: str) -> None:
    with pytest.raises(CannotSplit, match=f"{spec} cannot be shared among ranks by a plan: .*{reason}"):
        ask(spec)


def test_queries_are_those_of_the_keys() -> None:
    with pytest.raises(CannotSplit, match="here are 64 queries, 256 keys"):
        ask("causal", Sizes(256, 64, 8, 8))


@pytest.mark.parametrize("spec", ["causal", "longnet", "packed", "packed_offsets", "left_padded", "etc", "linear"])
def test_what_sizes_bound_is_not_refused(spec: str) -> None:
    ask(spec)


def test_what_would_take_the_solver_minutes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As residues of images over a thousand ranks: nearly each pair of ranks would be looked at alone."""
    relation, sizes = lower(check_text("attention a { attend causal }")), Sizes(40, 40, 2, 2)
    for module, name in ((parts, "_MOST_RUNS"), (parts, "_RUNS_EACH"), (alike, "_MOST")):
        monkeypatch.setattr(module, name, 0)
    monkeypatch.setattr(alike, "_MOST_ALONE", 10)
    assert schedule(relation, sizes, 5).work.sum() == 40 * 41
    monkeypatch.setattr(alike, "_MOST_ALONE", 9)
    said = "a cannot be shared among 5 ranks by contiguous shards: 10 pairs of chunks are unlike one another"
    with pytest.raises(HardToSplit, match=said):
        schedule(relation, sizes, 5)
