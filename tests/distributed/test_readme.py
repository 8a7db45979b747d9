"""The script that the README shows works as it is written, under torchrun on one node and on two."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    text = ROOT.joinpath("README.md").read_text(encoding="utf-8").partition("## Many devices\n")[2]
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    path = tmp_path / "far.py"
    path.write_text(found[1], encoding="utf-8")
    return path


def _check(said: str, ranks: int) -> None:
    assert len(re.findall(rf"rank \d of {ranks} from position \d+ on: right", said)) == ranks, said
    assert "shards of 2,048 positions" in said


@pytest.mark.slow
def test_four_processes_of_this_machine(script: Path) -> None:
    done = subprocess.run(
        [*TORCHRUN, "--nproc-per-node", "4", str(script)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    _check(done.stdout, 4)


@pytest.mark.slow
def test_two_nodes_with_two_processes_each(script: Path) -> None:
    with_free_port = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    port = with_free_port.port
    del with_free_port
    ways = ["--nnodes", "2", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-id", "readme"]
    command = [*TORCHRUN, *ways, "--rdzv-endpoint", f"localhost:{port}", str(script)]
    nodes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0]
    _check("".join(said), 4)


@pytest.mark.slow
def test_run_joins_the_processes_of_torchrun() -> None:
    words = ["-m", "attnspec", "run", "causal", "--ranks", "2", "-n", "300", "--heads", "2"]
    done = subprocess.run(
        [*TORCHRUN, "--nproc-per-node", "2", *words], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("right: results agree with one device") == 1, done.stdout
