"""Emitted Triton files run by themselves: without attnspec, they agree with what it computed densely."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import settings

from attnspec.cli import group
from tests.support.marks import slow
from tests.support.shipped import FUSED

pytest.importorskip("triton")

SOME = (("packed", "t5_bias"), slow(("window", "longformer_dilated", "longnet", "reformer", "gpt_oss")))
# Attnspec must not be found, even where it is installed for development.
RUN = """
import runpy, sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "attnspec":
            raise ImportError("attnspec is forbidden here")
sys.meta_path.insert(0, Forbidden())
for path in sys.argv[1:]:
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as stop:
        if stop.code:
            sys.exit(f"{path}: {stop.code}")
"""


def emitted(folder: Path, name: str, *arguments: str) -> Path:
    heads = () if name == "longformer_dilated" else ("--heads", "2")
    done = CliRunner().invoke(group, ["emit", name, "--stage", "triton", "--dim", "32", *heads, *arguments])
    assert done.exit_code == 0, done.output
    path = folder / f"{name}.py"
    path.write_text(done.stdout, encoding="utf-8")
    return path


def run(folder: Path, *paths: Path) -> subprocess.CompletedProcess[str]:
    driver = folder / "run.py"
    driver.write_text(RUN, encoding="utf-8")
    command = [sys.executable, str(driver), *map(str, paths)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env={**os.environ, "TRITON_INTERPRET": "1"}, timeout=900
    )


@pytest.mark.parametrize("names", [FUSED] if settings().max_examples > 1000 else SOME)
def test_files_run_alone_and_agree(names: tuple[str, ...], tmp_path: Path) -> None:
    done = run(tmp_path, *(emitted(tmp_path, name) for name in names))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("out:") == len(names)


@pytest.mark.slow
def test_a_wrong_kernel_is_found_out(tmp_path: Path) -> None:
    path = emitted(tmp_path, "window", "width=64")
    before, clause, after = path.read_text(encoding="utf-8").partition("def allowed_0(q, k):")
    assert clause
    assert "< 64\n" in after
    path.write_text(before + clause + after.replace("< 64\n", "< 63\n", 1), encoding="utf-8")
    done = run(tmp_path, path)
    assert done.returncode == 1
    assert "do not agree" in done.stderr


@pytest.mark.slow
def test_without_a_gpu_the_file_says_what_to_do(tmp_path: Path) -> None:
    path = emitted(tmp_path, "causal")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120)
    if "error" not in done.stdout:  # there is no GPU
        assert done.returncode == 1
        assert "TRITON_INTERPRET=1" in done.stderr
