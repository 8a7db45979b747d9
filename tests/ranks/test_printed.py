"""The printed form of schedules: what changes in one is seen."""

from __future__ import annotations

from dataclasses import replace

from attnspec.check.check import check_text
from attnspec.codegen.ranks.planned import schedule
from attnspec.codegen.ranks.runs import Run
from attnspec.codegen.ranks.shards import shards
from attnspec.relation.lower import lower
from attnspec.relation.sizes import Sizes

GLOBALS = """
ranks 3  contiguous shards of 300 positions  2 steps
rank 0  holds 0..299, computes 12,452 pairs
    step 0: queries 0..299 x keys 0..299: 12,380 pairs
    step 1: queries 292..299 x keys 300..307 of rank 1: 72 pairs
    step 1: sends rank 1 keys 0..1 and 292..299
    step 1: sends rank 2 keys 0..1
    step 1: sends rank 1 queries 0..1
    step 1: sends rank 2 queries 0..1
rank 1  holds 300..599, computes 12,600 pairs
    step 0: queries 300..599 x keys 300..599: 10,056 pairs
    step 1: queries 0..1 of rank 0 x keys 300..599: 1,200 pairs
    step 1: queries 300..599 x keys 0..1 of rank 0: 1,200 pairs
    step 1: queries 300..307 x keys 292..299 of rank 0: 72 pairs
    step 1: queries 592..599 x keys 600..607 of rank 2: 72 pairs
    step 1: sends rank 0 keys 300..307
    step 1: sends rank 2 keys 592..599
    step 1: sends rank 0 results of queries 0..1
rank 2  holds 600..899, computes 12,528 pairs
    step 0: queries 600..899 x keys 600..899: 10,056 pairs
    step 1: queries 0..1 of rank 0 x keys 600..899: 1,200 pairs
    step 1: queries 600..899 x keys 0..1 of rank 0: 1,200 pairs
    step 1: queries 600..607 x keys 592..599 of rank 1: 72 pairs
    step 1: sends rank 1 keys 600..607
    step 1: sends rank 0 results of queries 0..1
"""


def test_globals_and_window() -> None:
    relation = lower(check_text("attention a { attend |q - k| <= 8  attend q < 2  attend k < 2 }"))
    assert str(schedule(relation, Sizes(900, 900, 2, 1), 3)) == GLOBALS.strip("\n")


def test_digests_tell_apart_what_ranks_do() -> None:
    text = "attention a { attend |q - k| <= 8  attend q < 2  attend k < 2 }"
    relation, sizes = lower(check_text(text)), Sizes(90, 90, 2, 1)
    causal = lower(check_text("attention a { attend causal }"))
    base = schedule(relation, sizes, 3)
    flipped = tuple(replace(one, moved=~one.moved) for one in base.placed)
    again = schedule(relation, sizes, 3)
    again.placed[0].cut.shapes.add((Run(0, 1), Run(5, 6)))  # as documents of a call do
    assert again.digest == base.digest
    others = [
        replace(base, placed=flipped),
        replace(base, traffic=replace(base.traffic, step=base.traffic.step + 1)),
        replace(base, traffic=replace(base.traffic, source=base.traffic.target, target=base.traffic.source)),
        schedule(relation, sizes, 3, itemsize=2),
        schedule(relation, Sizes(90, 90, 2, 1, 2), 3),
        *(schedule(causal, sizes, ranks, helpers=helpers) for ranks in (2, 3) for helpers in (True, False)),
        *(schedule(causal, sizes, 2, shards("greedy", 90, 2, work=work)) for work in ([8] * 8, [8] + [1] * 7)),
        *(schedule(causal, sizes, 3, kind) for kind in ("zigzag", "residue")),
    ]
    assert len({base.digest, *(one.digest for one in others)}) == len(others) + 1


def test_chunks_that_follow_one_another_are_one() -> None:
    for text in ("attend causal", "attend window(50)", "attend q // 30 == k // 30"):
        relation, sizes = lower(check_text(f"attention a {{ {text} }}")), Sizes(360, 360, 2, 1)
        for kind in ("contiguous", "grid"):
            one, three = (schedule(relation, sizes, 4, kind, chunks) for chunks in (None, 3))
            assert str(one) == str(three)
            assert len(three.items(0)) <= 3


def test_documents_leave_fewer_pairs() -> None:
    relation = lower(check_text("attention a { input doc: int[batch, n] sorted  within causal and doc[q] == doc[k] }"))
    said = str(schedule(relation, Sizes(8, 8, 1, 1), 2))
    assert "holds 0..3, computes at most 18 pairs" in said
    assert "step 1: queries 4..5 x keys 0..3 of rank 0: at most 8 pairs" in said
