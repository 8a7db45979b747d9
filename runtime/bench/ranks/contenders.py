"""Who is measured: ours, and others by name, as a call of a rank's own rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from attnspec.codegen.ranks.plan import RankPlan
from attnspec.runtime.attention import Attention
from attnspec.runtime.bench.ranks.cases import Case
from attnspec.runtime.bench.ranks.counted import Sent
from attnspec.runtime.bench.ranks.peers import Call, Chunks, all_gather, context_parallel, ring
from attnspec.runtime.bench.ranks.transport import Counting
from attnspec.runtime.distributed.distribute import distribute
from attnspec.runtime.distributed.processes import of_group

OURS, GATHER, RING = "attnspec", "all-gather", "ring"
ROTATIONS = {"context_parallel": "allgather", "context_parallel, ring": "alltoall"}
"""PyTorch's own, by how its keys travel: the first is its default."""


@dataclass(frozen=True)
class Planned:
    """What the plan says of each rank: bytes sent and received, and pairs computed."""

    sent: tuple[int, ...]
    received: tuple[int, ...]
    pairs: tuple[int, ...]


@dataclass(frozen=True)
class Contender:
    """A call of a rank's rows, which stand at ``positions`` (-1: padding); ``planned`` of ours only."""

    group: dist.ProcessGroup
    positions: Tensor
    call: Call
    planned: Planned | None = None
    transport: Counting | None = None

    def counted(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, int]:
        """The output, and the bytes that this rank sent for it."""
        if self.transport is not None:
            self.call(q, k, v)  # in the first call ranks tell each other what they are about to do
            before = self.transport.sent
            return self.call(q, k, v), self.transport.sent - before
        with Sent(self.group) as sent:
            out = self.call(q, k, v)
        return out, sent.bytes


def names_of(case: Case) -> tuple[str, ...]:
    """Who is measured in a case."""
    return OURS, GATHER, RING, *(ROTATIONS if case.causal else ())


def contender(
    name: str, case: Case, attend: Attention, group: dist.ProcessGroup, dtype: torch.dtype = torch.float32
) -> Contender:
    """One of them by its name, ready to be called on this rank; only ours in another type than float32."""
    if name == OURS:
        return _ours(case, attend, group, dtype)
    rank, chunks = dist.get_rank(group), Chunks(case.n, dist.get_world_size(group), case.causal)
    if name in ROTATIONS:
        call = context_parallel(ROTATIONS[name], group)
    else:
        call = (all_gather if name == GATHER else ring)(attend, chunks, group)
    return Contender(group, chunks.positions(rank), call)


def _ours(case: Case, attend: Attention, group: dist.ProcessGroup, dtype: torch.dtype) -> Contender:
    transport = Counting(of_group(group))
    sizes = {"n": case.n, "heads": case.heads, "kv_heads": case.kv_heads, "dim": case.dim}
    far = distribute(attend, transport, shard=case.shard, dtype=dtype, **sizes)  # type: ignore[arg-type]
    plan = far.plan
    assert isinstance(plan, RankPlan), "cases are of softmax"
    schedule = plan.schedule
    numbers = (schedule.sent(), schedule.received(), schedule.work)
    planned = Planned(*(tuple(map(int, by_rank)) for by_rank in numbers))
    return Contender(group, far.positions, far, planned, transport)
