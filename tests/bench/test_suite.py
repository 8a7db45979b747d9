"""The suite for GPUs, as far as it runs without one: checks in triton's interpreter, the time, the table."""

from __future__ import annotations

import functools
import io
import os
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from rich.console import Console

from attnspec.cli.bench import suite as gpu_suite
from attnspec.codegen.cost.roofline import Prediction
from attnspec.codegen.triton.schedule import KINDS, Few, Schedule, Shape, candidates
from attnspec.runtime.bench import kernel_checks as checks
from attnspec.runtime.bench import suite
from attnspec.runtime.bench import workers as crew
from attnspec.runtime.bench.calls import Row, long_rows, shipped_rows
from attnspec.runtime.bench.clock import Timing
from attnspec.runtime.bench.kernel_checks import BASE, CASES, Check, Found
from attnspec.runtime.bench.peers import OWN
from attnspec.runtime.bench.predicted import Predicted
from attnspec.runtime.bench.race import Outcome
from attnspec.runtime.bench.setup import CPU
from attnspec.runtime.bench.suite import Budget, Report
from attnspec.runtime.bench.versions import versions
from attnspec.runtime.triton import tune as triton_tune

pytest.importorskip("triton")

LAST = 4
"""The number of the smallest tiles: quick in the interpreter."""


class Clock:
    """A clock that goes on by a second whenever it is looked at."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """The time."""
        self.now += 1.0
        return self.now


def small(number: int, dtype: str = "float32", **changes: Any) -> Check:
    return Check(replace(CASES[number], **changes), 16, dtype, LAST, length=53, device="cpu")


QUICK = ("window", "reformer")
TRIED = [
    pytest.param(number, id=case.name, marks=() if case.spec in QUICK else pytest.mark.slow)
    for number, case in enumerate(CASES)
    if case.spec in (*QUICK, "longnet", "t5_bias", "memory")
]


@pytest.mark.slow
@pytest.mark.parametrize("number", TRIED)
def test_cases_are_checked_in_the_interpreter(number: int) -> None:
    dtype = ("float32", "float16")[number % 2]
    assert checks.run(small(number, dtype)) == Found("right")


@pytest.mark.slow
def test_a_wrong_kernel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a kernel of another pattern in its place."""
    own = checks.verify
    monkeypatch.setattr(checks, "verify", lambda spec, sizes, tensors, results, *rest: own(
        spec, sizes, tensors, {**results, "dk": results["dk"] * 1.01}, *rest))  # fmt: skip
    found = checks.run(small(0))
    assert found.state == "wrong"
    assert found.message.startswith("dk ")
    monkeypatch.setattr(checks, "verify", lambda *_: 1 / 0)
    assert checks.run(small(0)) == Found("failed", "ZeroDivisionError: division by zero")


def test_all_schedules_and_all_cases_come_first() -> None:
    first, rest = checks.checks()
    for dim in checks.DIMS:
        for dtype in checks.DTYPES:
            shapes = candidates(dim, getattr(torch, dtype).itemsize, 389)
            mine = [c for c in first if c.case is BASE and (c.dim, c.dtype) == (dim, dtype)]
            for kind in KINDS:
                assert {c.schedule.of(kind) for c in mine} == set(shapes[kind])
    assert {(c.case, c.dim, c.dtype) for c in first} >= {
        (case, dim, dtype) for case in CASES for dim in (64, 128) for dtype in checks.DTYPES
    }
    assert not set(first) & set(rest)
    assert {(c.case, c.dim, c.dtype) for c in [*first, *rest]} == {
        (case, dim, dtype) for case in CASES for dim in checks.DIMS for dtype in checks.DTYPES
    }
    decode = next(c for c in rest if c.case.n_q == 1)
    assert decode.schedule.forward.tile.rows == Few.of(1, 2).rows == 8, "two heads share their keys and a tile"


def test_a_schedule_is_used_while_it_is_asked_for() -> None:
    q = torch.zeros(1, 1, 64, 64)
    shape = Shape(checks.CASES and triton_tune.schedule(q, q).forward.tile, 1, 1)
    mine = Schedule(shape, shape, shape)
    with checks.using(mine):
        assert triton_tune.schedule(q, q) is mine
    assert triton_tune.schedule(q, q) is not mine


def test_what_does_not_fit_the_time_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "run", lambda check: Found("right"))
    clock, every = Clock(), [small(i) for i in range(len(CASES))]
    report = Report(first=len(every))
    budget = Budget.now(100, clock)
    suite.check(report, every, budget.until(0.05), 0, lambda text: None, budget)
    assert len(report.checked) == 4
    assert report.unchecked == every[4:]
    rows = list(shipped_rows(64, None, None, 1, 16, "float32"))
    suite.measure(report, rows, {}, CPU, 3, False, Budget(1, clock, clock()), lambda text: None)
    assert report.unmeasured == rows
    out = io.StringIO()
    gpu_suite.show(report, versions(CPU), 3.0, Console(file=out, width=200))
    assert f"not run  {len(every) - 4} more checks" in out.getvalue()
    assert f"not run  {len(rows)} rows, for want of time: alibi n=64 dim=16; " in out.getvalue()
    assert gpu_suite.as_plain(report, {}, 3.0)["not_run"][0] == "alibi n=64 dim=16"


@pytest.mark.slow
def test_rows_are_measured_and_failures_do_not_end_it() -> None:
    rows = [row for row in shipped_rows(128, None, None, 1, 16, "float32") if row.name in ("causal", "window")]
    rows.insert(1, replace(rows[0], name="broken", spec="nowhere"))
    report, said = Report(), []
    suite.measure(report, rows, {}, CPU, 3, False, Budget.now(1000), said.append)
    assert [row.name for row, *_ in report.measured] == ["causal", "window"]
    assert [row.name for row, _ in report.failed] == ["broken"]
    assert len(said) == 3
    for _, _, forward, both in report.measured:
        assert forward.timings.keys() == both.timings.keys() == {"attnspec", "SDPA causal", OWN}
        assert forward.missing == {"FlexAttention": "not asked for"}


def test_the_order_of_a_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(checks, "run", lambda check: told.append("check") or Found("wrong", "by far"))
    monkeypatch.setattr(suite, "tune", lambda *_: told.append("tune"))
    monkeypatch.setattr(suite, "warm", lambda *_: told.append("warm") or {})
    monkeypatch.setattr(suite, "measure", lambda *_: told.append("measure"))
    rows = list(long_rows("bfloat16"))
    said: list[str] = []
    report = suite.run(Budget.now(1000), [small(0)], [small(1)], rows, CPU, 3, True, said.append, workers=0)
    assert told == ["check", "tune", "warm", "measure", "check"]
    assert len(report.wrong) == 2
    assert said[0].startswith("WRONG: window, dim 16, float32, 16x16/4/1")


@pytest.mark.slow
def test_what_a_crew_does_for_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU: candidates in the interpreter, rows by C++ kernels."""
    monkeypatch.setattr(triton_tune, "LENGTH", 64)
    monkeypatch.setattr(triton_tune, "HEADS", 1)
    monkeypatch.setattr(suite, "_alone", lambda: None)
    for kind in KINDS:
        suite.compile_candidate(64, "float16", True, kind, 0, "cpu")
    row = next(row for row in shipped_rows(128, None, None, 1, 16, "float32") if row.name == "window")
    assert isinstance(suite.warm_row(row, True, "cpu"), Predicted)
    budget = Budget.now(1000)
    found = suite.warm([row, replace(row, spec="nowhere")], CPU, False, budget, 1, lambda text: None)
    assert list(found.values()).count(None) == 1


def outcome(mine: float, theirs: float, predicted: float, pairs: int) -> Outcome:
    times = {"attnspec": mine, "SDPA causal": theirs, OWN: theirs}
    found = Predicted(pairs, Prediction("a GPU", predicted, predicted, "compute"), False)
    notes = {"SDPA causal": "cudnn", OWN: "causal"}
    return Outcome({name: Timing((t, t, t)) for name, t in times.items()}, {}, None, notes, found)


def test_the_table() -> None:
    row = Row("window width=64", "window", (("width", 64),), 1024, None, 2, 2, 1, 64, "bfloat16", True)
    setup = row.setup(row.attend(), CPU, 3)
    pairs = 2 * (1024 * 1025 // 2) // 4  # a quarter of causal attention
    report = Report({small(0): Found("right"), small(1): Found("wrong", "dq 1.0e+00 (tolerance 2e-04)")}, first=2)
    report.measured.append((row, setup, outcome(1e-3, 2e-3, 5e-4, pairs), outcome(4e-3, 4e-3, 1e-3, pairs)))
    report.failed.append((replace(row, name="other"), "RuntimeError: no"))
    out = io.StringIO()
    gpu_suite.show(report, {"device": "a GPU"}, 12.0, Console(file=out, width=80))
    text = out.getvalue()
    assert "checks   1 of 2 agree" in text
    assert "wrong    causal, dim 16, float32, 16x16/4/1, 16x16/4/1, 16x16/4/1: dq 1.0e+00" in text
    assert "failed   other n=1,024 dim=64: RuntimeError: no" in text
    cells = next(line for line in text.splitlines() if line.startswith("window width=64")).split()
    rate = 4 * 64 * pairs / 1e-3
    assert cells[2:] == [
        "1,024", "2", "x", "64", "1", "ms", f"{rate / 1e9:.3g}", "G", "2.00", "50%", "2.00", "cudnn", "-",
        "4", "ms", f"{rate * 3.5 / 4 / 1e9:.3g}", "G", "2.00", "25%", "1.00", "cudnn", "-",
    ]  # fmt: skip
    found = gpu_suite.as_plain(report, {}, 12.0)
    assert found["checks"]["made"] == 2
    assert found["checks"]["right"] == 1
    assert found["rows"][0]["forward"]["useful_share"] == pytest.approx(0.5)
    assert found["rows"][0]["both"]["predicted_seconds"] == 2e-3


def test_rows_are_calls_that_there_are() -> None:
    rows = [*long_rows("bfloat16"), *shipped_rows(8192, None, None, 1, 64, "bfloat16")]
    assert len({(row.name, row.m, row.dim) for row in rows if row.flex}) == sum(row.flex for row in rows)
    for row in rows:
        setup = row.setup(row.attend(), CPU, 3)
        assert setup.sizes.heads % setup.sizes.kv_heads == 0


# The crew


def die() -> None:
    os._exit(7)


def poisoned() -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.mark.slow
def test_a_crew_survives_what_its_members_do() -> None:
    tasks: list[crew.Task] = [
        die,
        poisoned,
        *(functools.partial(divmod, n, 3) for n in range(4)),
        functools.partial(divmod, 1, 0),
    ]
    found = dict(crew.work(tasks, time.monotonic() + 300, 2))
    assert found.keys() == set(range(len(tasks)))
    assert str(found[0]) == "its process died"
    assert "illegal memory access" in str(found[1])
    assert [found[n + 2] for n in range(4)] == [divmod(n, 3) for n in range(4)]
    assert isinstance(found[6], crew.Lost)
    assert "ZeroDivisionError" in str(found[6])


@pytest.mark.slow
def test_a_crew_stops_what_takes_too_long() -> None:
    tasks: list[crew.Task] = [functools.partial(time.sleep, 300), functools.partial(divmod, 7, 2)]
    start = time.monotonic()
    found = dict(crew.work(tasks, time.monotonic() + 300, 1, longest=3))
    assert "stopped after" in str(found[0])
    assert found[1] == (3, 1)
    assert time.monotonic() - start < 60
    assert dict(crew.work(tasks, time.monotonic() - 1, 1)) == {}
    assert dict(crew.work(tasks, 0.0, 0)) == {}
