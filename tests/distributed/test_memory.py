"""What a rank holds at once: its own tensors, and of messages no copies, and no more than two steps of them."""

from __future__ import annotations

from dataclasses import dataclass
from unittest.mock import patch

import pytest
import torch

import attnspec
from attnspec.runtime.distributed import duties, pieces
from attnspec.runtime.distributed.spread import Given, Spread
from attnspec.runtime.distributed.transport import Transport
from tests.support.live import peak
from tests.support.marks import slow
from tests.support.ranks import simulate

RANKS, HEADS, DIM = 4, 2, 64


@dataclass(frozen=True)
class Held:
    """Bytes of one rank: of its own tensors and those received, and the most that are there at once; both passes."""

    own: tuple[int, int]
    received: tuple[int, int]
    peak: tuple[int, int]

    def ratio(self, backward: bool) -> float:
        """What is there by what must be."""
        return self.peak[backward] / (self.own[backward] + self.received[backward])


def _held(transport: Transport, pattern: str, n: int, shard: str, dtype: torch.dtype) -> Held:
    """Of a call without what the public one adds: the operator itself."""
    attend = attnspec.compile(pattern, **({"width": n // 32} if pattern == "window" else {}))
    options = {"n": n, "heads": HEADS, "kv_heads": 1, "dim": DIM, "dtype": dtype, "shard": shard}
    far = attnspec.distribute(attend, transport, **options)
    spread, schedule = far._of, far.plan.schedule
    assert isinstance(spread, Spread)
    q, k, v = (torch.randn(1, heads, schedule.shards.rows, DIM).to(dtype) for heads in (HEADS, 1, 1))
    given = Given(q, k, v, {}, None, n)
    spread.forward(given, True)  # ranks tell each other what they are about to do, once
    kept, forward = peak(lambda: spread.forward(given, True))
    dout = torch.randn_like(kept.out)
    _, backward = peak(lambda: spread.backward(given, kept, dout, None, ()))
    inputs, results = (sum(t.nbytes for t in some) for some in ((q, k, v), (kept.out, kept.lse)))
    own = inputs + results, 2 * inputs + results + dout.nbytes
    received = (int(schedule.received(backward)[far.rank]) for backward in (False, True))
    return Held(own, tuple(received), (inputs + forward, inputs + results + dout.nbytes + backward))  # type: ignore[arg-type]


@pytest.mark.parametrize("shard", ["zigzag", "contiguous"])
@pytest.mark.parametrize("n", [2048, slow(8192)])
def test_no_more_than_own_tensors_and_what_is_received(n: int, shard: str) -> None:
    """Forward none of what is sent is copied, and results for others are there in place of their queries.

    Backward a fifth more, of gradients of keys: they are there where they are made, and where they are added.
    """
    with patch.object(duties, "FEWEST", 64), patch.object(pieces, "LARGE", 1 << 15):
        found = simulate(RANKS, lambda transport: _held(transport, "causal", n, shard, torch.float32)).results
    for rank, held in enumerate(found):
        assert held.ratio(False) <= 1.05, f"rank {rank}: {held}"
        assert held.ratio(True) <= 1.2, f"rank {rank}: {held}"


@pytest.mark.parametrize(("pattern", "shard"), [("window", "contiguous"), slow("causal", "zigzag")])
def test_sums_are_float32_where_later_steps_add_to_them(pattern: str, shard: str) -> None:
    """Of a window those of the rows that see another rank's keys, and of a block beside: not all of them.

    Causal attention adds to all rows of zigzag shards in each step: their sums are a third of its own tensors more.
    """
    with patch.object(duties, "FEWEST", 64), patch.object(pieces, "LARGE", 1 << 15):
        found = simulate(RANKS, lambda transport: _held(transport, pattern, 4096, shard, torch.bfloat16)).results
    for rank, held in enumerate(found):
        assert held.ratio(False) <= (1.2 if pattern == "window" else 1.25), f"rank {rank}: {held}"
