"""Run contenders on processes of this machine: rounds in turn for time, and fresh processes for the peak of memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from attnspec.runtime.attention import compile
from attnspec.runtime.bench.high_water import high_water
from attnspec.runtime.bench.ranks.cases import Case
from attnspec.runtime.bench.ranks.contenders import OURS, Contender, Planned, contender, names_of
from attnspec.runtime.bench.ranks.peers import why_not_context_parallel
from attnspec.runtime.distributed.launch import on_processes

TOLERANCE = 2e-5
"""How far an output may be from that of one device."""


class _Rounds(NamedTuple):
    """Of one rank and contender: seconds of each round, of the clock and of the processor; bytes; the largest error."""

    seconds: tuple[float, ...]
    cpu: tuple[float, ...]
    sent: int
    error: float


@dataclass(frozen=True)
class Ran:
    """One contender: the median time of a round, which ends with the last rank, and by rank the rest.

    ``cpu`` are medians of the processor's seconds, ``sent`` bytes, ``peak`` bytes of memory above the start. ``error``
    is the largest difference from the output of one device.
    """

    seconds: float
    rounds: tuple[float, ...]
    cpu: tuple[float, ...]
    sent: tuple[int, ...]
    peak: tuple[int, ...]
    error: float

    @property
    def total(self) -> int:
        """The bytes that all ranks send."""
        return sum(self.sent)

    @property
    def cpu_spread(self) -> float:
        """The largest over the mean of the ranks' processor time."""
        return max(self.cpu) / statistics.mean(self.cpu)


class InHalf(NamedTuple):
    """Ours in bfloat16: by rank the peak, and what it must hold: its own tensors, and what it receives."""

    peak: tuple[int, ...]
    needed: tuple[int, ...]

    @property
    def memory(self) -> float:
        """The largest peak by that."""
        return max(peak / needed for peak, needed in zip(self.peak, self.needed, strict=True))


@dataclass(frozen=True)
class Compared:
    """A case: who ran, by name, what was planned of ours, and why PyTorch's own function did not run ("" if it did).

    ``half`` is ours in bfloat16, if that was measured.
    """

    case: Case
    ranks: int
    ran: dict[str, Ran]
    planned: Planned
    why_not: str
    half: InHalf | None = None

    def times(self, peer: str) -> float:
        """How many times as fast as a peer ours is, by medians."""
        return self.ran[peer].seconds / self.ran[OURS].seconds

    @property
    def local(self) -> int:
        """The bytes of a rank's own q, k, v and output, with its log-sum-exp."""
        return _own(self.case, -(-self.case.n // self.ranks), torch.float32)

    @property
    def memory(self) -> float:
        """The largest peak of ours, by what the rank must hold: its own tensors, and what it receives."""
        pairs = zip(self.ran[OURS].peak, self.planned.received, strict=True)
        return max(peak / (self.local + received) for peak, received in pairs)


def measure_ranks(
    cases: Sequence[Case], ranks: int, runs: int, tick: Callable[[str], object] = lambda _: None
) -> Iterator[Compared]:
    """Measure cases, one after the other. Raises RankError where a process fails."""
    for case in cases:
        names = names_of(case)
        tick(f"{case}: {', '.join(names)}")
        by_rank = on_processes(ranks, _raced, case, names, runs)
        planned, why_not = by_rank[0][1:]
        ran = {}
        for name in names:
            tick(f"{case}: memory of {name}")
            peak = [found for found, _ in on_processes(ranks, _peak, case, name, torch.float32)]
            of_ranks = [found[name] for found, _, _ in by_rank]
            rounds = tuple(max(seconds) for seconds in zip(*(one.seconds for one in of_ranks), strict=True))
            ran[name] = Ran(
                statistics.median(rounds),
                rounds,
                tuple(statistics.median(one.cpu) for one in of_ranks),
                tuple(one.sent for one in of_ranks),
                tuple(peak),
                max(one.error for one in of_ranks),
            )
        tick(f"{case}: memory in bfloat16")
        half = InHalf(*zip(*on_processes(ranks, _peak, case, OURS, torch.bfloat16), strict=True))
        yield Compared(case, ranks, ran, planned, why_not, half)


def _vectors(case: Case, n: int) -> list[Tensor]:
    """All of q, k and v, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, h, n, case.dim, generator=generator) for h in (case.heads, case.kv_heads, case.kv_heads)]


def _raced(case: Case, names: Sequence[str], runs: int) -> tuple[dict[str, _Rounds], Planned, str]:
    """On each rank: every contender in turn, after a round that counts bytes and is compared with one device."""
    group, attend = dist.group.WORLD, compile(case.spec, params=case.params)
    assert group is not None
    contenders = {name: contender(name, case, attend, group) for name in names}
    whole = _vectors(case, case.n)
    with torch.no_grad():
        want = attend(*whole) if dist.get_rank(group) == 0 else None
        given = {name: [_rows(t, one.positions) for t in whole] for name, one in contenders.items()}
        del whole
        counted = {name: one.counted(*given[name]) for name, one in contenders.items()}
        errors = {name: _error(one, counted[name][0], want) for name, one in contenders.items()}
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for _ in range(runs):
            for name, one in contenders.items():
                dist.barrier(group)
                start, cpu = time.perf_counter(), time.process_time()
                one.call(*given[name])
                times[name].append((time.perf_counter() - start, time.process_time() - cpu))
    found = {}
    for name in names:
        clock, processor = zip(*times[name], strict=True)
        found[name] = _Rounds(clock, processor, counted[name][1], errors[name])
    return found, _planned(contenders[OURS]), why_not_context_parallel(group) if case.causal else ""


def _planned(ours: Contender) -> Planned:
    assert ours.planned is not None
    return ours.planned


def _rows(t: Tensor, positions: Tensor) -> Tensor:
    """The rows of these positions, one behind the other; those of none (-1) are zero."""
    rows = t[:, :, positions.clamp(min=0)]
    rows[:, :, positions < 0] = 0
    return rows


def _error(one: Contender, out: Tensor, want: Tensor | None) -> float:
    """On rank 0: how far the outputs of all ranks are from that of one device."""
    ranks = dist.get_world_size()
    mine = out.float().contiguous(), one.positions.contiguous()
    outs, positions = ([torch.empty_like(t) for _ in range(ranks)] if want is not None else None for t in mine)
    for t, into in zip(mine, (outs, positions), strict=True):
        dist.gather(t, into, dst=0)
    if want is None or outs is None or positions is None:
        return 0.0
    there = [at >= 0 for at in positions]
    parts = zip(outs, positions, there, strict=True)
    return max(float((part[:, :, has] - want[:, :, at[has]]).abs().max()) for part, at, has in parts if has.any())


def _own(case: Case, rows: int, dtype: torch.dtype) -> int:
    return rows * (dtype.itemsize * 2 * (case.heads + case.kv_heads) * case.dim + 4 * case.heads)


def _peak(case: Case, name: str, dtype: torch.dtype) -> tuple[int, int]:
    """On each rank of fresh processes: the most memory that a call takes, with the rows that it is given.

    And of ours what it must take: its own tensors, and what it receives.
    """
    group, attend = dist.group.WORLD, compile(case.spec, params=case.params)
    assert group is not None
    one = contender(name, case, attend, group, dtype)
    small = contender(name, case.smaller(dist.get_world_size(group)), attend, group, dtype)
    heads = case.heads, case.kv_heads, case.kv_heads
    with torch.no_grad():
        small.call(*(torch.zeros(1, h, len(small.positions), case.dim, dtype=dtype) for h in heads))
        start = high_water(anew=True)
        given = [torch.empty(1, h, len(one.positions), case.dim, dtype=dtype).uniform_() for h in heads]
        dist.barrier(group)
        one.call(*given)
        received = 0 if one.planned is None else one.planned.received[dist.get_rank(group)]
        return high_water() - start, _own(case, len(one.positions), dtype) + received
