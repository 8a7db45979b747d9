"""What ranks on gloo cost on this machine, for plans: measured, and kept on disk as the ceilings are."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

from attnspec.codegen.ranks.machines import Machine
from attnspec.runtime.attention import compile
from attnspec.runtime.bench.ceilings import busy, processor
from attnspec.runtime.bench.ranks.kept import NAME, Prices, keep
from attnspec.runtime.distributed.launch import on_processes
from attnspec.runtime.distributed.processes import of_group
from attnspec.runtime.distributed.transport import Expected, Sent

SIZES = tuple(1 << power for power in range(10, 25, 2))
"""Bytes of messages, 1 KiB to 16 MiB."""
_ROUNDS, _DIM, _N = 15, 64, 4096


def prices(ranks: int) -> Prices:
    """Measure them with so many processes of this machine, and remember them in place of earlier ones.

    Raises RankError where a process fails.
    """
    by_rank = on_processes(ranks, _measured)
    slowest = {size: max(found[0][size] for found in by_rank) for size in SIZES}
    one, all_, call = (max(found[i] for found in by_rank) for i in (1, 2, 3))
    message = max(0.0, (all_ - one) / (ranks - 2)) if ranks > 2 else one
    bandwidth = max(size / seconds for size, seconds in slowest.items())
    flops = min(found[4] for found in by_rank)
    origin = f"{processor()}, {ranks} processes on {os.cpu_count()} processors, {time.strftime('%Y-%m-%d')}{busy()}"
    machine = Machine(
        NAME,
        dict.fromkeys(("float32", "bfloat16", "float16"), flops),
        near=bandwidth,
        far=bandwidth,
        node=1,
        message=message,
        call=call,
        step=max(0.0, one - message),
        beside=False,
        origin=f"attnspec bench --ranks {ranks}: {origin}",
    )
    found = Prices(machine, slowest)
    keep(found)
    return found


def _measured() -> tuple[dict[int, float], float, float, float, float]:
    """On each rank: seconds by size of message, of a step with one message and with one to every other rank, of a call.

    Last come the operations per second on live pairs of a causal call.
    """
    group = dist.group.WORLD
    assert group is not None
    transport = of_group(group)
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)

    def exchange(distances: Sequence[int], size: int) -> Callable[[], object]:
        own = torch.zeros(size, dtype=torch.uint8)
        sent = [Sent((rank + d) % ranks, own) for d in distances]
        expected = [Expected((rank - d) % ranks, torch.empty_like(own)) for d in distances]
        return lambda: transport.post(sent, expected).wait()

    by_size = {size: _least(exchange((1,), size), _ROUNDS) for size in SIZES}
    one, every = (_least(exchange(d, 64), 4 * _ROUNDS) for d in ((1,), tuple(range(1, ranks))))
    attend = compile("causal")

    def part(n: int) -> Callable[[], object]:
        q, k, v = torch.randn(3, 1, 1, n, _DIM).unbind()
        out, lse = torch.zeros_like(q), torch.full(q.shape[:3], float("-inf"))
        return lambda: attend.part(q, k, v, q_start=0, k_start=0, n=n, out=out, lse=lse)

    with torch.no_grad():
        call, long = _least(part(1), 10 * _ROUNDS), _least(part(_N), _ROUNDS)
    return by_size, one, every, call, 4 * _DIM * (_N * (_N + 1) // 2) / long


def _least(call: Callable[[], object], rounds: int) -> float:
    """The least seconds of a call that all ranks make at once, to which other work on the machine can only add."""
    call()
    spent = []
    for _ in range(rounds):
        dist.barrier()
        start = time.perf_counter()
        call()
        spent.append(time.perf_counter() - start)
    return min(spent)
