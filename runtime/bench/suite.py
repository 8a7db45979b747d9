"""The suite on a GPU, within a time: checks of all kernels, then measurements, then more checks while there is time.

Kernels, and FlexAttention's, are compiled by a crew of processes before anything is measured, and found in the caches
on disk by this one, which measures alone.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from attnspec.codegen.triton.schedule import FEW, KINDS, Schedule, Shape, bucket, candidates
from attnspec.runtime.bench import kernel_checks as checks
from attnspec.runtime.bench.calls import Row
from attnspec.runtime.bench.kernel_checks import Check, Found
from attnspec.runtime.bench.peers import OWN
from attnspec.runtime.bench.predicted import Predicted, predicted
from attnspec.runtime.bench.race import Outcome, bench, contenders
from attnspec.runtime.bench.setup import Setup
from attnspec.runtime.bench.workers import Lost, work
from attnspec.runtime.core.device import device_of
from attnspec.runtime.triton import tune as triton_tune

PEERS = ("SDPA causal", "FlexAttention", OWN)
"""SDPA with a dense mask is left out: building masks takes longer than everything else together."""
MEASURED = tuple[Row, Setup, Outcome, Outcome]
Say = Callable[[str], object]


@dataclass(frozen=True)
class Budget:
    """Seconds for everything, from ``start`` on, on a clock."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    start: float = field(default=0.0)

    @classmethod
    def now(cls, seconds: float, clock: Callable[[], float] = time.monotonic) -> Budget:
        """A budget that begins."""
        return cls(seconds, clock, clock())

    def until(self, share: float) -> float:
        """The time at which a share of the budget is spent."""
        return self.start + share * self.seconds

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return self.clock() - self.start


@dataclass
class Report:
    """What came of a suite: results of checks, those not made, rows with outcomes or an error, those not run."""

    checked: dict[Check, Found] = field(default_factory=dict)
    unchecked: list[Check] = field(default_factory=list)
    measured: list[MEASURED] = field(default_factory=list)
    failed: list[tuple[Row, str]] = field(default_factory=list)
    unmeasured: list[Row] = field(default_factory=list)
    first: int = 0
    """How many of the checks cover every schedule and every mechanism once."""

    @property
    def wrong(self) -> dict[Check, Found]:
        """The checks that failed."""
        return {check: found for check, found in self.checked.items() if not found.fine}


def run(
    budget: Budget,
    first: Sequence[Check],
    rest: Sequence[Check],
    rows: Sequence[Row],
    device: torch.device,
    runs: int,
    flex: bool,
    say: Say = lambda _: None,
    workers: int | None = None,
) -> Report:
    """Everything in its order; what does not fit the budget is in the report by name."""
    report, many = Report(first=len(first)), crew_size() if workers is None else workers
    check(report, first, budget.until(0.45), many, say, budget)
    known: dict[Row, Predicted | None] = {}
    if rows:
        tune(rows, device, budget, many, say)
        known = warm(rows, device, flex, budget, many, say)
    measure(report, rows, known, device, runs, flex, budget, say)
    check(report, rest, budget.until(0.97), many, say, budget)
    return report


def crew_size() -> int:
    """A process for each processor but two, and not more than a GPU's memory has room for."""
    return max(1, min(14, (os.cpu_count() or 1) - 2))


def check(report: Report, wanted: Sequence[Check], until: float, workers: int, say: Say, budget: Budget) -> None:
    """Make checks; a lost process is a failed check."""
    tasks = [functools.partial(checks.run, one) for one in wanted]
    for number, result in work(tasks, until, workers, clock=budget.clock):
        found = Found("failed", str(result)) if isinstance(result, Lost) else result
        report.checked[wanted[number]] = found
        if not found.fine:
            say(f"{found.state.upper()}: {wanted[number]}: {found.message}")
        if len(report.checked) % 50 == 0:
            say(f"{budget.spent:4.0f} s: {len(report.checked)} checks, {len(report.wrong)} wrong")
    report.unchecked += [one for one in wanted if one not in report.checked]


def tune(rows: Sequence[Row], device: torch.device, budget: Budget, workers: int, say: Say) -> None:
    """Compile all candidates, then let this process measure which schedules rows will use; and the ceilings."""
    from attnspec.runtime.bench.gpu_ceilings import gpu_ceilings

    kinds = sorted({(bucket(row.dim), row.dtype, row.n_q is not None and row.n_q <= FEW) for row in rows})
    say(f"{budget.spent:4.0f} s: schedules for {len(kinds)} kinds of calls")
    tasks = [
        functools.partial(compile_candidate, dim, dtype, few, kind, number, device.type)
        for dim, dtype, few in kinds
        for kind in KINDS
        for number in range(len(_shapes(dim, dtype, few)[kind]))
    ]
    for _ in work(tasks, budget.until(0.55), workers, clock=budget.clock):
        pass
    gpu_ceilings(device)
    for dim, dtype, few in kinds:
        q = torch.empty(1, 1, FEW if few else triton_tune.LENGTH, dim, dtype=getattr(torch, dtype), device=device)
        triton_tune.schedule(q, q)


def compile_candidate(dim: int, dtype: str, few: bool, kind: str, number: int, device: str) -> None:
    """Compile one candidate as the measurement will call it."""
    _alone()
    found = _shapes(dim, dtype, few)
    schedule = replace(Schedule(*(found[one][0] for one in KINDS)), **{kind: found[kind][number]})
    q, k = (
        torch.randn(1, triton_tune.HEADS, n, dim, dtype=getattr(torch, dtype), device=device)
        for n in (FEW if few else triton_tune.LENGTH, triton_tune.LENGTH)
    )
    triton_tune.time_of(kind, schedule, q, k, lambda launch: 0.0)


def warm(
    rows: Sequence[Row], device: torch.device, flex: bool, budget: Budget, workers: int, say: Say
) -> dict[Row, Predicted | None]:
    """Compile what rows need, in the crew; the predictions that were made on the way."""
    say(f"{budget.spent:4.0f} s: compiling for {len(rows)} rows")
    tasks = [functools.partial(warm_row, row, flex, device.type) for row in rows]
    known: dict[Row, Predicted | None] = {}
    for number, result in work(tasks, budget.until(0.68), workers, clock=budget.clock):
        known[rows[number]] = result if isinstance(result, Predicted) else None
    return known


def warm_row(row: Row, flex: bool, where: str) -> Predicted:
    """Run a row once, forward and backward with its peers, so that all that is compiled for it is on disk."""
    _alone()
    device, attend = device_of(where), row.attend()
    setup = row.setup(attend, device, 3)
    made = contenders(attend, setup, flex and row.flex, lambda _: None, names=PEERS)
    contenders(attend, _both(setup), flex and row.flex, lambda _: None, names=PEERS)
    return predicted(attend, setup, made.given)


def measure(
    report: Report,
    rows: Sequence[Row],
    known: dict[Row, Predicted | None],
    device: torch.device,
    runs: int,
    flex: bool,
    budget: Budget,
    say: Say,
) -> None:
    """Measure rows one after another while there is time; one that fails does not end the others."""
    for number, row in enumerate(rows, 1):
        if budget.clock() >= budget.until(0.93):
            report.unmeasured.append(row)
            continue
        try:
            attend = row.attend()
            setup = row.setup(attend, device, runs)
            forward = bench(attend, setup, flex and row.flex, names=PEERS, expected=known.get(row))
            both = bench(attend, _both(setup), flex and row.flex, names=PEERS, expected=forward.predicted)
        except Exception as error:
            report.failed.append((row, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"))
            say(f"{budget.spent:4.0f} s: [{number}/{len(rows)}] {row.name}: failed: {report.failed[-1][1]}")
            continue
        report.measured.append((row, setup, forward, both))
        mine = forward.timings["attnspec"].median
        say(f"{budget.spent:4.0f} s: [{number}/{len(rows)}] {row.name} n={row.m:,}: {mine * 1e3:.3g} ms")


def _alone() -> None:
    """One thread in this process, as many others work beside it."""
    torch.set_num_threads(1)
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"


def _both(setup: Setup) -> Setup:
    return replace(setup, backward=True)


def _shapes(dim: int, dtype: str, few: bool) -> dict[str, tuple[Shape, ...]]:
    itemsize = getattr(torch, dtype).itemsize
    return dict(candidates(dim, itemsize, FEW if few else triton_tune.LENGTH))
