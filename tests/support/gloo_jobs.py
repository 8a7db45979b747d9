"""What processes run as ranks of a gloo group.

``python -m tests.support.gloo_jobs JOB RANKS FOLDER RANK`` is one whose end does not end the others.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import attnspec
from attnspec.codegen.ranks.runs import count
from attnspec.runtime.bench.high_water import high_water
from attnspec.runtime.bench.ranks.transport import Counting
from attnspec.runtime.distributed.processes import of_group
from tests.support.over_ranks import agree, on_one, on_rank
from tests.support.over_ranks_cases import CASES
from tests.support.targets import compiled

TIMEOUT = 20.0
"""Seconds after which gloo gives up."""


def _counted() -> Counting:
    group = dist.group.WORLD
    assert group is not None
    return Counting(of_group(group))


def cases(names: Sequence[str]) -> None:
    """Results, gradients and bytes of cases by name: as on one device, as planned."""
    for name in names:
        text, call = CASES[name]
        attend = compiled(text, "cpp")
        want = on_one(attend, call)
        found, traffic = on_rank(attend, call, _counted(), want)
        agree(attend, call, found, want)
        trained = any(t.requires_grad for t in call.inputs.values())
        got, right = (pair[:1] if trained else pair for pair in (traffic.sent, traffic.planned))
        assert got == right, f"{name}: {got} bytes sent, {right} planned"


@dataclass(frozen=True)
class Asked:
    """A pattern and the sizes of a call; ``warm`` is the length of another that loads its kernels."""

    pattern: str
    params: dict[str, Any]
    n: int
    shard: str
    times: int = 0
    warm: int = 4096
    heads: int = 4
    kv_heads: int = 2
    dim: int = 64

    def distributed(self, n: int, transport: Counting) -> attnspec.Distributed:
        """It over the ranks."""
        sizes = {"heads": self.heads, "kv_heads": self.kv_heads, "dim": self.dim}
        attend = attnspec.compile(self.pattern, params=self.params)
        return attnspec.distribute(attend, transport, n=n, shard=self.shard, **sizes)

    def rows(self, far: attnspec.Distributed) -> list[Tensor]:
        """Rows of a rank: q, k and v."""
        rows, generator = far.plan.schedule.shards.rows, torch.Generator().manual_seed(far.rank)
        heads = (self.heads, self.kv_heads, self.kv_heads)
        return [torch.randn(1, count_, rows, self.dim, generator=generator).requires_grad_() for count_ in heads]


@dataclass(frozen=True)
class Figures:
    """Of one rank: bytes received forward, those planned, those of an all-gather; memory; CPU seconds; pairs."""

    received: int
    planned: int
    gathered: int
    peak: int
    local: int
    needed: int
    seconds: float
    pairs: int


def figures(asked: Asked) -> Figures:
    """What a rank of a call receives, holds and takes."""
    transport = _counted()
    warm, far = (asked.distributed(n, transport) for n in (asked.warm, asked.n))
    _seconds(warm, *asked.rows(warm))
    start = high_water(anew=True)
    q, k, v = asked.rows(far)
    with torch.no_grad():
        out = far(q, k, v)  # ranks tell each other what they are about to do, once
        peak, before = high_water() - start, transport.received
        far(q, k, v)
    found = transport.received - before
    schedule = far.plan.schedule
    messages = [m for m in schedule.messages(far.rank) if m.target == far.rank and m.kind == "keys"]
    keys = sum(count(one.runs) for m in messages for one in m.slices) * asked.kv_heads * 2 * asked.dim * 4
    times = [_seconds(far, q, k, v) for _ in range(asked.times)]
    return Figures(
        received=found,
        planned=int(schedule.received()[far.rank]),
        gathered=schedule.gathered,
        peak=peak,
        local=sum(t.numel() * t.element_size() for t in (q, k, v, out)),
        needed=keys,
        seconds=min(times, default=0.0),
        pairs=int(schedule.work[far.rank]),
    )


def _seconds(far: attnspec.Distributed, q: Tensor, k: Tensor, v: Tensor) -> float:
    """CPU seconds of this process, forward and backward."""
    before = time.process_time()
    out = far(q, k, v)
    torch.autograd.grad(out, [q, k, v], torch.ones_like(out))
    return time.process_time() - before


def gone() -> str:
    """The last rank dies in the midst of a program: the others say so."""
    far, q = _ready()
    if far.rank == far.ranks - 1:
        os._exit(7)
    return _error(far, q)


def asleep() -> str:
    """The last rank takes no part, and stays: the others wait no longer than the timeout."""
    far, q = _ready()
    if far.rank == far.ranks - 1:
        time.sleep(2.5 * TIMEOUT)
        return "slept"
    return _error(far, q)


def undone() -> str:
    """The loss of the last rank does not depend on its output: the others, in backward, are told what that means."""
    far, q = _ready()
    q.requires_grad_()
    out = far(q, q, q)
    if far.rank == far.ranks - 1:
        time.sleep(2.5 * TIMEOUT)
        return "slept"
    try:
        out.sum().backward()
    except RuntimeError as error:
        return f"RuntimeError: {error}"
    raise AssertionError("backward went on without a rank")


def _ready() -> tuple[attnspec.Distributed, Tensor]:
    far = attnspec.distribute(attnspec.compile("causal"), None, n=64, heads=2, dim=16, shard="zigzag")
    q = torch.randn(1, 2, far.plan.schedule.shards.rows, 16)
    far(q, q, q)
    return far, q


def _error(far: attnspec.Distributed, q: Tensor) -> str:
    began = time.monotonic()
    try:
        for _ in range(3):
            far(q, q, q)
    except RuntimeError as error:
        assert time.monotonic() - began < 1.5 * TIMEOUT
        return f"RuntimeError: {error}"
    raise AssertionError("calls went on without a rank")


def alone(ranks: int, job: Callable[[], str], seconds: float = 300) -> list[str]:
    """What a job returned in each process, or how it ended; one that fails does not end the others.

    Raises TimeoutExpired where they take longer; then none of them is left.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.support.gloo_jobs", job.__name__, str(ranks), folder]
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "env": environment}
        started = [subprocess.Popen([*command, str(rank)], text=True, **options) for rank in range(ranks)]
        try:
            said = [one.communicate(timeout=seconds)[0] for one in started]
        finally:
            for one in started:
                one.kill()
        results = [Path(folder) / f"found-{rank}" for rank in range(ranks)]
        return [
            at.read_text() if at.exists() else f"status {one.returncode}: {text[-2000:]}"
            for one, at, text in zip(started, results, said, strict=True)
        ]


def _main(job: str, ranks: str, folder: str, rank: str) -> None:
    torch.set_num_threads(1)
    store, timeout = f"file://{folder}/store", timedelta(seconds=TIMEOUT)
    dist.init_process_group("gloo", init_method=store, rank=int(rank), world_size=int(ranks), timeout=timeout)
    found = {"gone": gone, "asleep": asleep, "undone": undone}[job]()
    (Path(folder) / f"found-{rank}").write_text(found)
    sys.stdout.flush()
    os._exit(0)  # without waiting for who is gone


if __name__ == "__main__":
    _main(*sys.argv[1:])
