"""What others do with one sequence over many ranks: all-gather, ring, and PyTorch's own ``context_parallel``.

All-gather and ring compute with our own kernels, so that only the schedule differs. They are written as users write
them: plain torch.distributed, keys and values whole, forward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch import Tensor

from attnspec.runtime.attention import Attention

Call = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A rank's rows of q, k and v, (1, heads, rows, dim), to its rows of the output."""


@dataclass(frozen=True)
class Chunks:
    """How positions are dealt out: in one chunk a rank, or in two, from both ends (zigzag)."""

    n: int
    ranks: int
    zigzag: bool

    @property
    def size(self) -> int:
        """The positions of a chunk. Raises ValueError where there is a rest, which these schedules do not know."""
        number = self.ranks * (1 + self.zigzag)
        if self.n % number:
            raise ValueError(f"n = {self.n:,} cannot be cut into {number} chunks alike")
        return self.n // number

    def starts(self, rank: int) -> tuple[int, ...]:
        """Where the chunks of a rank begin."""
        first, last = rank * self.size, (2 * self.ranks - 1 - rank) * self.size
        return (first, last) if self.zigzag else (first,)

    def positions(self, rank: int) -> Tensor:
        """The positions of its rows."""
        return torch.cat([torch.arange(start, start + self.size) for start in self.starts(rank)])


class _Rows:
    """The output of a rank's rows, chunk by chunk, to which parts are added in place."""

    def __init__(self, attend: Attention, chunks: Chunks, rank: int, q: Tensor) -> None:
        self.attend, self.n, self.starts = attend, chunks.n, chunks.starts(rank)
        self.q = torch.split(q, chunks.size, 2)
        self.out = [torch.zeros(rows.shape) for rows in self.q]
        self.lse = [torch.full(rows.shape[:3], float("-inf")) for rows in self.q]

    def add(self, chunk: int, k: Tensor, v: Tensor, k_start: int) -> None:
        into = {"out": self.out[chunk], "lse": self.lse[chunk]}
        where = {"q_start": self.starts[chunk], "k_start": k_start, "n": self.n}
        self.attend.part(self.q[chunk], k, v, **where, **into)  # type: ignore[arg-type]

    def whole(self) -> Tensor:
        return torch.cat(self.out, 2) if len(self.out) > 1 else self.out[0]


def all_gather(attend: Attention, chunks: Chunks, group: dist.ProcessGroup) -> Call:
    """Every rank gets all keys and values, then computes its rows: as PyTorch's FlexAttention does over ranks.

    (``flex_cp_allgather`` of torch.distributed.tensor.experimental gathers each with this function.)
    """
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    starts = torch.tensor([start for other in range(ranks) for start in chunks.starts(other)])
    order = starts.argsort().tolist()

    gather = getattr(functional, "all_gather_single", None) or functional.all_gather_tensor  # before torch 2.13

    def gathered(mine: Tensor) -> Tensor:
        whole: Tensor = functional.wait_tensor(gather(mine, 2, group))  # type: ignore[no-untyped-call]
        if not chunks.zigzag:
            return whole
        pieces = torch.split(whole, chunks.size, 2)
        return torch.cat([pieces[at] for at in order], 2)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values, rows = gathered(k), gathered(v), _Rows(attend, chunks, rank, q)
        for chunk in range(len(rows.starts)):
            rows.add(chunk, keys, values, 0)
        return rows.whole()

    return call


def ring(attend: Attention, chunks: Chunks, group: dist.ProcessGroup) -> Call:
    """Keys and values go round: each rank sends on what it computed with, while it computes."""
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    after, before = ((rank + step) % ranks for step in (1, -1))

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows, mine = _Rows(attend, chunks, rank, q), torch.stack((k, v))
        for step in range(ranks):
            waiting, then = [], mine
            if step < ranks - 1:
                then = torch.empty_like(mine)
                waiting = dist.batch_isend_irecv(
                    [
                        dist.P2POp(dist.isend, mine, group=group, group_peer=after),
                        dist.P2POp(dist.irecv, then, group=group, group_peer=before),
                    ]
                )
            starts = chunks.starts((rank - step) % ranks)
            for k_start, keys in zip(starts, torch.split(mine, chunks.size, 3), strict=True):
                for chunk, q_start in enumerate(rows.starts):
                    if k_start <= q_start or not chunks.zigzag:
                        rows.add(chunk, keys[0], keys[1], k_start)
            for work in waiting:
                work.wait()
            mine = then
        return rows.whole()

    return call


def why_not_context_parallel(group: dist.ProcessGroup) -> str:
    """Why PyTorch's ``context_parallel`` itself cannot run on these ranks; empty if it can."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor.experimental import context_parallel

    q, k, v = torch.zeros(3, 1, 1, 4 * dist.get_world_size(group), 8).unbind()
    try:
        with context_parallel(DeviceMesh.from_group(group, "cpu"), buffers=[q, k, v], buffer_seq_dims=[2, 2, 2]):
            torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)  # by the name that it replaces
    except NotImplementedError as error:
        return str(error).splitlines()[0]
    return ""


def context_parallel(rotation: str, group: dist.ProcessGroup) -> Call:
    """The schedule of PyTorch's ``context_parallel``, causal, over zigzag shards, with its kernel for the CPU.

    Its own function for that, called directly, since ``context_parallel`` has no way to it on the CPU (see
    :func:`why_not_context_parallel`). ``rotation`` is how keys travel, ``"allgather"`` (its default) or ``"alltoall"``.
    """
    from torch.distributed.tensor.experimental import _attention
    from torch.distributed.tensor.experimental._context_parallel._attention import _templated_ring_attention

    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        _attention.set_rotate_method(rotation)
        return _templated_ring_attention(group, 2, kernel, q, k, v, is_causal=True)[0]

    return call
