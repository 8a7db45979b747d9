"""What attention over processes must reach: results, bytes, memory, balance; and what a rank that is gone is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import attnspec
from attnspec.runtime.distributed.launch import on_processes
from tests.support import gloo_jobs
from tests.support.gloo_jobs import Asked
from tests.support.over_ranks import Call, agree_over_ranks
from tests.support.over_ranks_cases import CASES


def test_two_processes() -> None:
    """What travels one way, and what comes back."""
    on_processes(2, gloo_jobs.cases, ["global rows and columns"])


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_all_kinds(ranks: int) -> None:
    on_processes(ranks, gloo_jobs.cases, list(CASES))


WINDOW: tuple[str, dict[str, Any]] = ("window", {"width": 1024})
LONGFORMER: tuple[str, dict[str, Any]] = ("longformer", {"width": 1024, "globals": 16})
DILATED: tuple[str, dict[str, Any]] = ("dilated", {"width": 512, "rate": 8})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "shard", "share"),
    [(WINDOW, "contiguous", 0.02), (LONGFORMER, "contiguous", 0.03), (DILATED, "residue", 0.0)],
    ids=lambda value: str(value),
)
def test_bytes_and_memory(pattern: tuple[str, dict[str, Any]], shard: str, share: float) -> None:
    """Of keys that an all-gather sends, this share at most, to the byte what was planned; memory for that."""
    found = on_processes(4, gloo_jobs.figures, Asked(*pattern, n=65536, shard=shard))
    sent, gathered = sum(one.received for one in found), sum(one.gathered for one in found)
    assert sent <= share * gathered, f"{sent / gathered:.2%}"
    for one in found:
        assert one.received == one.planned
        assert one.peak <= 1.2 * (one.local + one.needed), f"{one.peak / (one.local + one.needed):.3f}"


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["zigzag", "contiguous"])
@pytest.mark.parametrize("ranks", [2, 3, 4, 5])
def test_causal_attention_is_balanced(ranks: int, shard: str) -> None:
    """Over zigzag shards, and over contiguous ones by helpers: in pairs, and in CPU time."""
    found = on_processes(ranks, gloo_jobs.figures, Asked("causal", {}, 960 * ranks, shard, times=7, warm=64))
    pairs, seconds = [one.pairs for one in found], [one.seconds for one in found]
    assert max(pairs) * ranks <= 1.01 * sum(pairs), pairs
    assert max(seconds) * ranks <= 1.05 * sum(seconds), seconds


@pytest.mark.slow
def test_longnet_over_eight_ranks() -> None:
    """Its five branches, a thirty-second as long: at most an eighth of the keys, equal to one device."""
    branches = [[64, 1], [128, 2], [256, 4], [512, 6], [1024, 12]]
    attend = attnspec.compile("longnet", branches=branches)
    call = Call(4096, 12, 12, dim=16, shard="contiguous")
    agree_over_ranks(attend, call, 8)
    assert _received(attend, 4096, 8) <= 1 / 8
    assert _received(attnspec.compile("longnet"), 1 << 17, 8) <= 1 / 8


def _received(attend: attnspec.Attention, n: int, ranks: int) -> float:
    """The largest share of an all-gather's bytes that a rank receives."""
    from attnspec.runtime.distributed.planning import Asked as Wished
    from attnspec.runtime.distributed.planning import planned

    wished = Wished(12, 12, 64, 64, str(torch.bfloat16).removeprefix("torch."), 1, "contiguous", None, "h100")
    schedule = planned(attend, ranks, n, wished).schedule
    return float(schedule.received().max() / schedule.gathered)


@pytest.mark.slow
def test_a_rank_that_dies_is_an_error_in_the_others() -> None:
    first, second, last = gloo_jobs.alone(3, gloo_jobs.gone)
    assert first.startswith("RuntimeError"), first
    assert second.startswith("RuntimeError"), second
    assert last.startswith("status 7"), last


@pytest.mark.slow
@pytest.mark.parametrize("job", [gloo_jobs.asleep, gloo_jobs.undone])
def test_a_rank_that_takes_no_part_is_waited_for_no_longer_than_the_timeout(job: Callable[[], str]) -> None:
    first, second, last = gloo_jobs.alone(3, job)
    for said in (first, second):
        assert said.startswith("RuntimeError: attention over ranks waited in vain for rank"), said
    assert last == "slept"
