"""``attnspec bench SPEC --memory`` of a spec that says how segments follow one another."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from attnspec.runtime.bench.high_water import high_water
from tests.support.command import read_json, run


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["rmt", "transformer_xl"])
def test_a_step_of_training_is_measured(spec: str) -> None:
    options = {"rmt": ["slots=2"], "transformer_xl": ["length=32"]}[spec]
    found = read_json("bench", spec, "segment=32", *options, "--memory", "-n", "4096")
    assert found["segments"] == 128
    assert 0 < found["used_bytes"] < 50e6
    assert found["kept_bytes"] == (None if spec == "transformer_xl" else 128 * 2 * 64 * 4)
    assert 4 < found["loss"] < 7


def test_what_has_no_meaning_is_refused() -> None:
    assert "--heads has no meaning" in run("bench", "rmt", "--memory", "--heads", "4", status=2).stderr


@pytest.mark.slow
def test_a_process_does_not_begin_with_the_peak_of_another() -> None:
    ballast = torch.zeros(50_000_000)  # 200 MB
    script = "from attnspec.runtime.bench.high_water import high_water; print(high_water())"
    small = int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    assert small < 100e6 < ballast.nbytes < high_water()
