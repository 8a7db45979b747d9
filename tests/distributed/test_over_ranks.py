"""Attention over simulated ranks: what one device gives, the same bits whenever messages arrive, the bytes planned."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from attnspec.runtime.core.arguments import CallError
from tests.support.branch_strategies import branch_cases
from tests.support.over_ranks import Call, agree_over_ranks
from tests.support.over_ranks_cases import CASES
from tests.support.pass_strategies import laid_cases
from tests.support.strategies import Case, cases
from tests.support.targets import compiled
from tests.targets.test_generated import DTYPES, GROUPS, examples

SHARDS = st.sampled_from(
    [("contiguous", None), ("contiguous", 3), ("zigzag", None), ("zigzag", 4), ("greedy", 2), ("greedy", 5),
     ("residue", None), ("grid", None)]
)  # fmt: skip
RANKS = st.integers(1, 6)
SEEDS = st.integers(0, 1 << 20)


def test_a_window_and_global_rows() -> None:
    """Queries that travel and keys that do, a rank with padding; two orders of arrival."""
    text, call = CASES["global rows and columns"]
    agree_over_ranks(compiled(text, "cpp"), replace(call, n=45, batch=1), 3, (0, 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_all_kinds(name: str, ranks: int) -> None:
    text, call = CASES[name]
    agree_over_ranks(compiled(text, "cpp"), call, ranks, range(4))


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["contiguous", "zigzag", "greedy", "residue"])
@pytest.mark.parametrize("name", ["window", "sinks", "LongNet", "a mixture", "documents, biases, a sink"])
def test_all_shards(name: str, shard: str) -> None:
    text, call = CASES[name]
    agree_over_ranks(compiled(text, "cpp"), replace(call, shard=shard, chunks=None), 5, range(3))


@pytest.mark.slow
@examples(6)
@given(cases() | laid_cases(), RANKS, SHARDS, GROUPS, DTYPES, st.integers(1, 2), SEEDS)
def test_specs(
    case: Case, ranks: int, shard: tuple[str, int | None], kv_heads: int, dtype: torch.dtype, batch: int, seed: int
) -> None:
    call = Call(case.n, 4, kv_heads, batch, dtype=dtype, shard=shard[0], chunks=shard[1])
    attend = compiled(case.text, "cpp", params=case.params)
    for n in (case.n, case.n * 3 + 1):
        agree_over_ranks(attend, replace(call, n=n), ranks, (seed, seed + 1))


@pytest.mark.slow
@examples(6)
@given(branch_cases(), RANKS, SHARDS, SEEDS)
def test_branches(case: Case, ranks: int, shard: tuple[str, int | None], seed: int) -> None:
    """Mixtures with lines of their own, shares, sinks; weights that are detached."""
    assume(case.n == case.n_q)  # as it is over ranks
    inputs = {name: torch.from_numpy(array) for name, array in case.inputs.items()}
    call = Call(case.n, case.heads, case.heads, case.batch, shard=shard[0], chunks=shard[1], inputs=inputs)
    agree_over_ranks(compiled(case.text, "cpp", params=case.params), call, ranks, (seed, seed + 1))


@pytest.mark.slow
@examples(6)
@given(cases(inputs=True), RANKS, SHARDS, SEEDS)
def test_inputs(case: Case, ranks: int, shard: tuple[str, int | None], seed: int) -> None:
    """Of inputs that say which pairs there are; where no plan can be made for them, by gathering keys."""
    assume(case.n == case.n_q)
    inputs = {name: torch.from_numpy(array) for name, array in case.inputs.items()}
    call = Call(case.n, case.heads, case.heads, case.batch, shard=shard[0], chunks=shard[1], inputs=inputs)
    attend = compiled(case.text, "cpp", params=case.params)
    try:
        agree_over_ranks(attend, call, ranks, (seed, seed + 1))
    except CallError as refused:
        if 'gather="keys"' not in str(refused):
            raise
        gathers = replace(call, shard="contiguous", chunks=None, gather="keys")
        agree_over_ranks(attend, gathers, ranks, (seed, seed + 1))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", range(2, 9))
def test_one_token_a_rank_and_fewer(ranks: int) -> None:
    for n in (1, ranks - 1, ranks, ranks + 1, 2 * ranks + 1):
        for shard in ("contiguous", "zigzag", "residue"):
            agree_over_ranks(compiled("attention sunk { attend causal  sink 0.5 }", "cpp"), Call(n, shard=shard), ranks)
