"""Inputs of one's own on the command line: for `inspect`, `draw`, `run`, `bench` and `diff`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.command import read_json, run


def test_run_and_bench_take_inputs(tmp_path: Path) -> None:
    path = tmp_path / "doc.npy"
    np.save(path, np.arange(300)[None] // 50)
    found = read_json(
        "run", "packed", "-n", "300", "--input", f"doc={path}", "--no-flex", "--heads", "2", "--budget", "2"
    )
    assert found["agrees"]
    timed = read_json("bench", "packed", "-n", "300", "--input", "doc=lengths:30", "--no-flex", "--runs", "3")
    assert timed
    assert "doc" in run("run", "packed", "-n", "301", "--input", f"doc={path}", "--no-flex", status=2).stderr
    assert "has no input `doc`" in run("bench", "causal", "--input", "doc=lengths:9", status=2).stderr


@pytest.mark.slow
def test_the_order_of_a_long_call_is_given_whole(tmp_path: Path) -> None:
    path = tmp_path / "buckets.npy"
    np.save(path, np.random.default_rng(0).integers(0, 8, (1, 1, 2, 2304)))
    words = ["attention near { order by lsh(buckets = 8, rounds = 2) attend q.bucket == k.bucket within causal }"]
    words += ["-n", "2304", "--heads", "1", "--dim", "16", "--no-flex", "--runs", "3", "--budget", "1"]
    found = read_json("run", *words, "--input", f"buckets={path}")
    assert found["agrees"], found["errors"]
    assert found["rows_checked"] == 512


def test_what_was_measured_with_examples_is_not_said_of_other_inputs() -> None:
    words = ["packed", "-n", "200", "--heads", "1"]
    run("bench", *words, "--no-flex", "--runs", "3")
    assert "measured here" in run("inspect", *words).stdout
    assert "measured here" not in run("inspect", *words, "--input", "doc=0").stdout


def test_documents_of_a_mean_length() -> None:
    found = read_json("inspect", "packed", "-n", "4096", "--input", "doc=lengths:64")
    assert "documents of mean length 6" in found["examples"]
    assert (
        read_json("inspect", "packed", "-n", "4096", "--input", "doc=lengths:512")["cost"]["pairs"]
        > found["cost"]["pairs"]
    )
    assert "neither sorted nor offsets" in run("inspect", "padded", "--input", "length=lengths:9", status=2).stderr
    assert "lengths:512 is" in run("inspect", "packed", "--input", "doc=lengths:0", status=2).stderr


@pytest.mark.parametrize(("second", "status"), [("window", 0), ("causal", 1)])
def test_diff_in_one_call(second: str, status: int) -> None:
    words = ["packed_window", second, "1:start=0", "--input", "doc=0", "-n", "700"]
    words = [*words, "1:recent=64", "2:width=64"] if second == "window" else [*words, "1:recent=64"]
    text = run("diff", *words, status=status).stdout
    assert text.startswith("equal at n = 700 with inputs: doc (" if status == 0 else "causal (the second) allows all")
    assert "has an input `x`" in run("diff", "packed", "causal", "--input", "x=1", status=2).stderr
