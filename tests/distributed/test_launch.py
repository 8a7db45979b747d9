"""Processes of this machine as ranks: results, failures that are told and not waited for, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from attnspec.runtime.distributed.launch import RankError, on_processes, on_ranks
from tests.support import launched

pytestmark = pytest.mark.slow


def test_each_rank_returns_what_it_found_and_handlers_stay() -> None:
    before = signal.getsignal(signal.SIGINT), dict(os.environ)
    assert on_processes(3, launched.sums, "") == [(rank, 3.0) for rank in range(3)]
    assert on_processes(2, launched.sums, "") == [(rank, 1.0) for rank in range(2)]
    assert (signal.getsignal(signal.SIGINT), dict(os.environ)) == before


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("dies", r"rank 1 of 3 died \(SIGKILL\), and the other processes were ended"),
        ("leaves", "rank 1 of 3 ended with status 3, and the other processes were ended"),
        ("fails", r"(?s)rank 1 of 3 failed, .* ValueError: a number is missing\n.*in sums"),
        ("refuses", r"rank 1 of 3 failed, and the other processes were ended: causal: q has 3 rows$"),
    ],
)
def test_a_rank_that_fails_ends_all(mode: str, message: str) -> None:
    start = time.monotonic()
    with pytest.raises(RankError, match=message):
        on_processes(3, launched.sums, mode)
    assert time.monotonic() - start < 30  # and not after the timeout of messages, of minutes


def test_inside_torchrun_its_processes_are_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(RankError, match="torchrun started 8 processes, and 4 ranks are asked for"):
        on_ranks(4, launched.sums, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_all_end_with_the_first_process(number: signal.Signals) -> None:
    code = "from tests.support import launched; from attnspec.runtime.distributed.launch import on_processes"
    code += "\nif __name__ == '__main__': on_processes(3, launched.sums, 'sleeps')"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        started = [int(process.stdout.readline().split()[1]) for _ in range(3)]
        process.send_signal(number)
        process.wait(30)
        end = time.monotonic() + 15
        while any(map(_runs, started)) and time.monotonic() < end:
            time.sleep(0.1)
        assert not any(map(_runs, started))
    assert process.returncode == (128 + number if number == signal.SIGTERM else -number)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            return stat.read().split()[2] != "Z"
    except OSError:
        return False
