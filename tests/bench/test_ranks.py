"""`attnspec bench --ranks`, `run --ranks`: all that are measured compute what one device does; bars can be missed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attnspec.codegen.ranks.machines import MACHINES
from attnspec.runtime.bench.ranks.bars import bars
from attnspec.runtime.bench.ranks.cases import CASES, Case
from attnspec.runtime.bench.ranks.contenders import GATHER, OURS, RING, ROTATIONS, Planned, names_of
from attnspec.runtime.bench.ranks.kept import NAME, Prices, forget, keep, remembered
from attnspec.runtime.bench.ranks.measure import TOLERANCE, Compared, Ran, measure_ranks
from attnspec.runtime.bench.ranks.peers import Chunks
from tests.support.command import read_json, run

CASE = Case("causal", n=64, sent=0.5, faster=2.0, balanced=True, heads=2, kv_heads=1, dim=4)


def _compared() -> Compared:
    """Two ranks that keep to every bar, just so."""
    local = 32 * 4 * (2 * 3 * 4 + 2)
    ours = Ran(1.0, (1.0,), (1.0, 1.0), (10, 20), (int(1.2 * (local + 100)),) * 2, TOLERANCE)
    others = {name: replace(ours, sent=(30, 30), seconds=1.0) for name in (*ROTATIONS, RING)}
    gather = replace(ours, sent=(30, 30), seconds=2.0)
    planned = Planned((10, 20), (100, 100), (101, 99))
    return Compared(CASE, 2, {OURS: ours, GATHER: gather, **others}, planned, "")


def test_bars_hold_and_each_of_them_can_be_missed() -> None:
    good = _compared()
    assert all(bar.holds for bar in bars(good)), [bar for bar in bars(good) if not bar.holds]
    ours = good.ran[OURS]
    for what, worse in (
        ("bytes sent that the plan does not say", {"sent": (10, 21)}),
        ("of the bytes of all-gather", {"sent": (31, 20)}),
        ("largest difference from one device, attnspec", {"error": 2 * TOLERANCE}),
        ("largest over mean CPU time of a rank", {"cpu": (1.0, 1.2)}),
        ("peak memory by what a rank holds and receives", {"peak": (5000, 5000)}),
        ("times as fast as all-gather", {"seconds": 1.1}),
        ("times as fast as context_parallel", {"seconds": 1.1}),
    ):
        bad = replace(good, ran={**good.ran, OURS: replace(ours, **worse)})  # type: ignore[arg-type]
        assert what in {bar.what for bar in bars(bad) if not bar.holds}
    uneven = replace(good, planned=replace(good.planned, pairs=(103, 97)))
    assert "largest over mean pairs of a rank" in {bar.what for bar in bars(uneven) if not bar.holds}


def test_every_position_is_dealt_out_once() -> None:
    for zigzag in (False, True):
        chunks = Chunks(24, 3, zigzag)
        dealt = torch.cat([chunks.positions(rank) for rank in range(3)])
        assert torch.equal(dealt.sort().values, torch.arange(24))
    assert Chunks(24, 3, True).starts(1) == (4, 16)
    with pytest.raises(ValueError, match="n = 25 cannot be cut into 6 chunks alike"):
        Chunks(25, 3, True).starts(0)


def test_options_that_mean_nothing_together_are_refused() -> None:
    for words, message in (
        (["run", "causal", "--shard", "zigzag"], "--shard deals positions out to --ranks"),
        (["bench", "causal", "--ranks", "2"], "--ranks measures calls of its own"),
    ):
        assert message in run(*words, status=2).stderr


@pytest.mark.slow
def test_all_that_are_measured_compute_what_one_device_does() -> None:
    params = {"window": {"width": 64}, "longformer": {"width": 64, "globals": 4}, "dilated": {"width": 16, "rate": 8}}
    small = [replace(case, n=4096, params=params.get(case.spec, {})) for case in CASES]
    for one in measure_ranks(small, 4, 1):
        assert set(one.ran) == set(names_of(one.case))
        assert all(ran.error <= TOLERANCE for ran in one.ran.values()), one.case
        assert one.ran[OURS].sent == one.planned.sent
        everything = one.case.n // 4 * 3 * 2 * one.case.kv_heads * one.case.dim * 4
        assert all(ran.sent == (everything,) * 4 for name, ran in one.ran.items() if name != OURS)


@pytest.mark.slow
def test_a_job_over_processes_is_that_of_one_device(tmp_path: Path) -> None:
    found = read_json("run", "longformer", "width=32", "--ranks", "3", "-n", "500")
    assert (found["agrees"], found["as_planned"], len(found["ranks"])) == (True, True, 3)
    assert set(found["ranks"][0]["errors"]) == {"out", "lse", "dq", "dk", "dv"}
    text = tmp_path / "text"
    text.write_bytes(bytes(range(32, 127)) * 20)
    said = run("run", "alibi", "--ranks", "2", "--text", str(text), "--steps", "6", "-n", "200").stdout
    assert "check: the loss is that of one device over 5 steps" in said


def test_prices_that_were_measured_are_those_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNSPEC_CACHE", str(tmp_path))
    ask = ("inspect", "causal", "--ranks", "2", "-n", "64", "--machine", NAME)
    assert remembered() is None
    mine = Prices(replace(MACHINES[NAME], origin="measured just now"), {1024: 1e-4})
    keep(mine)
    assert remembered() == mine
    assert "measured just now" in run(*ask).stdout
    assert forget()
    assert (forget(), remembered()) == (False, None)
