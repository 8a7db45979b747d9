"""The printed form of schedules: what changes in one is seen."""

from __future__ import annotations

from attnspec.check.check import check_text
from attnspec.codegen.ranks.planned import schedule
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
