"""What is asked and cannot be answered is said, not ignored; `-` is standard input."""

from __future__ import annotations

import logging

import pytest
import torch

import attnspec
from attnspec.spec import units
from tests.support.command import read_json, run

SPEC = "attention piped { attend 0 <= q - k < 7 }\n"


def test_a_spec_from_standard_input() -> None:
    assert (
        read_json("inspect", "-", "-n", "64", stdin=SPEC)["cost"]["pairs"]
        == read_json("inspect", SPEC, "-n", "64")["cost"]["pairs"]
    )
    assert run("emit", "-", "--stage", "source", stdin=SPEC).stdout.startswith("attention piped {")
    for stdin in ("", None):
        assert "standard input, and that is empty" in run("inspect", "-", stdin=stdin, status=2).stderr
        assert not run("fmt", "-", stdin=stdin).stdout


def test_numbers_for_people() -> None:
    assert [units.seconds(x) for x in (2e-5, 0.0123, 0.99996, 7482.0)] == ["20 us", "12.3 ms", "1 s", "7,482 s"]
    assert [units.quantity(x, "FLOP") for x in (0, 999.7, 1.2e13)] == ["0 FLOP", "1 kFLOP", "12 TFLOP"]
    assert units.count(12 * 10**9) == "12 G"
    text = run("inspect", "attention none { attend q < 0 }", "-n", "64").stdout
    assert "0 FLOP  " in text
    assert "waste" not in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("emit", "causal", "--backward", "--stage", "plan"), "--backward chooses between the kernels of --stage cpp"),
        (("bench", "--suite", "causal"), "--suite measures all shipped specs: leave out causal"),
        (("bench", "--ceilings", "causal"), "--ceilings measures the machine, not a pattern"),
        (("bench", "--ceilings", "--suite"), "one at a time"),
        (("bench", "--decode", "causal"), "--decode measures calls of its own: leave out causal"),
        (("bench", "--decode", "--backward"), "--decode measures forward calls on the CPU"),
        (("bench", "--linear", "causal"), "--linear measures calls of its own: leave out causal"),
        (("bench", "--flex", "causal"), "--flex measures calls of its own: leave out causal"),
        (("bench", "--linear", "--backward"), "--linear measures calls of its own on the CPU"),
        (("run", "causal", "--steps", "5"), "--text FILE asks for"),
        (("run", "attention none { attend q < 0 }", "-n", "64"), "none allows no pair in such a call"),
        (("bench", "attention none { attend k - q >= n }", "-n", "64"), "nothing to run"),
        (("inspect", "causal", "-n", "1.5"), "not a whole number"),
        (("inspect", "causal", "-n", "64q"), "not a length"),
    ],
)
def test_options_that_would_be_ignored(words: tuple[str, ...], said: str) -> None:
    assert said in run(*words, status=2).stderr


@pytest.mark.parametrize(("written", "length"), [("1e3", 1000), ("2k", 2048), ("1_000", 1000), ("4K", 4096)])
def test_lengths(written: str, length: int) -> None:
    pairs = read_json("inspect", "causal", "-n", written, "--heads", "1")["cost"]["pairs"]
    assert pairs == length * (length + 1) // 2


def test_making_a_kernel_is_logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from attnspec.runtime.cpp import load

    monkeypatch.setattr(load, "_LONG", 0.0)
    q, k, v = torch.randn(3, 1, 1, 5, 8).unbind(0)
    with caplog.at_level(logging.INFO, logger="attnspec"):
        attnspec.compile("attention logged { attend 0 <= q - k < 3  attend k == 77 }")(q, k, v)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("made the kernel of logged (forward, float32, head size 8) in ")
