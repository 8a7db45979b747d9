"""Patterns that no plan is made for, and the reasons."""

from __future__ import annotations

import pytest

from attnspec.check.check import check_text
from attnspec.codegen.ranks.refused import CannotSplit, require_splittable
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
