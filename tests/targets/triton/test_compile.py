"""Triton kernels compiled ahead of time, without a GPU: nothing spills, addresses are computed in 64 bits."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from attnspec.codegen.cost.gpus import GPUS, Usage
from attnspec.codegen.tiles import Tile
from attnspec.codegen.triton.schedule import KINDS, Schedule, Shape, candidates, likely
from attnspec.runtime.triton.ahead import Built, Compiled, fitting
from tests.support.marks import slow
from tests.support.shipped import FUSED

pytest.importorskip("triton")

DEEP = settings().max_examples > 1000
SOME = ("packed", *map(slow, ("sparse_strided", "window", "alibi", "block_topk", "reformer")))
ARCHES = tuple(GPUS) if DEEP else ("sm_80", "sm_90", "sm_100", "gfx942")


def compiled(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """``attnspec compile`` in a process of its own: this one interprets Triton. ``path`` is where it imports from."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, "-m", "attnspec", "compile", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=3600)


def rows(*arguments: str) -> list[dict[str, Any]]:
    done = compiled(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", FUSED if DEEP else SOME)
def test_nothing_spills(name: str) -> None:
    """Under the deep profile every shipped spec, for every GPU, at two head sizes."""
    arches = [word for arch in (ARCHES if DEEP else ("sm_90",)) for word in ("--arch", arch)]
    for dim in ("64", "128") if DEEP else ("64",):
        for row in rows(name, *arches, "--dim", dim):
            assert row["fits"]
            assert row["spilled"] == 0
            assert 0 < row["shared"] <= GPUS[row["arch"]].shared_of_block
            assert row["blocks"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize("queries", ["1", "16"])
def test_few_queries(queries: str) -> None:
    """Decoding: tiles that hold rows of several heads."""
    found = rows("causal", "--heads", "32", "--kv-heads", "8", "--queries", queries, "--dim", "128")
    assert found[0]["tile"] == {"1": "4 x 64", "16": "16 x 64"}[queries]
    assert found[0]["spilled"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dim"), [("causal", "64"), ("window", "128")])
def test_parts(name: str, dim: str) -> None:
    for row in rows(name, "--part", "--dim", dim):
        assert row["fits"]
        assert row["spilled"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_types_and_gpus(dtype: str) -> None:
    arches = [word for arch in ARCHES for word in ("--arch", arch)] if dtype == "bfloat16" else ["--arch", "sm_80"]
    found = rows("window", *arches, "--dim", "128", "--dtype", dtype)
    assert {row["kernel"] for row in found} == {"forward_0", "queries_0", "keys_0"}
    assert {row["arch"] for row in found} == set(arches[1::2])


@pytest.mark.slow
def test_files_and_addresses(tmp_path: Path) -> None:
    """Every address begins with a scalar offset in 64 bits; within a tile 32 bits suffice, which the host sees to."""
    found = rows("packed", "-o", str(tmp_path), "--dim", "32")
    folder = tmp_path / "sm_90"
    assert json.loads((folder / "report.json").read_text(encoding="utf-8")) == found
    assert "LARGEST_ROW = " in (folder / "kernel.py").read_text(encoding="utf-8")
    for kind in KINDS:
        ptx = (folder / f"{kind}_0.ptx").read_text(encoding="utf-8")
        assert ptx.count(".entry") == 1
        assert "st.global.v4" in ptx
        assert "st.global.b16" not in ptx, "rows are not known to be aligned"
        assert (folder / f"{kind}_0.cubin").stat().st_size > 1000
        text = (folder / f"{kind}_0.ttir").read_text(encoding="utf-8")
        scalars = re.findall(r"tt\.addptr %\w+, %\w+ : !tt\.ptr<\w+>, (\w+)", text)
        assert len(scalars) >= 5
        assert set(scalars) == {"i64"}
        assert not re.findall(r"arith\.muli .* : i32", text), "a scalar product in 32 bits"


@pytest.mark.slow
def test_wrong_input() -> None:
    assert compiled("window", "--arch", "sm_30").returncode == 2
    done = compiled("window", "widht=3")
    assert done.returncode == 2
    assert "did you mean `width`" in done.stderr


@pytest.mark.slow
def test_without_triton(tmp_path: Path) -> None:
    """As with the CPU build of torch, which does not bring it."""
    (tmp_path / "triton.py").write_text("raise ImportError('No module named triton')\n", encoding="utf-8")
    done = compiled("window", path=tmp_path)
    assert done.returncode == 2
    assert "pip install 'triton>=3.6'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_first_shape_that_fits_is_taken() -> None:
    shapes = {kind: tuple(Shape(Tile(size, size), 4, 1) for size in (64, 32, 16)) for kind in KINDS}
    asked: list[Schedule] = []

    def build_with(schedule: Schedule) -> Built:
        asked.append(schedule)
        spilled = {"forward": 0, "queries": 8 * (schedule.queries.tile.rows > 32), "keys": 8}
        made = [
            Compiled(f"{kind}_{number}", schedule.of(kind), Usage(64, spilled[kind] * number, 1024, 4), {})
            for kind in KINDS
            for number in range(2)
        ]
        return Built("", tuple(made))

    built = fitting(shapes, build_with, GPUS["sm_90"])
    assert [kernel.shape.tile.rows for kernel in built.kernels] == [64, 64, 32, 32, 16, 16]
    assert not built.fits(GPUS["sm_90"]), "no shape of the last kind does"
    assert [[schedule.of(kind).tile.rows for kind in KINDS] for schedule in asked] == [
        [64, 64, 64],
        [64, 32, 32],
        [64, 32, 16],
    ]


def test_some_shape_is_likely_to_fit() -> None:
    for arch in ARCHES:
        for dim in (16, 64, 80, 128, 256):
            for itemsize in (2, 4):
                every = candidates(dim, itemsize, 4096)
                for kind, shapes in likely(arch, dim, itemsize).items():
                    assert shapes
                    assert every[kind][-len(shapes) :] == shapes


def test_occupancy() -> None:
    """By hand: 128 registers x 256 threads fill half of 65,536; 96 KiB of 228 fit twice."""
    gpu = GPUS["sm_90"]
    assert Usage(128, 0, 0, 8).blocks(gpu) == 2
    assert Usage(32, 0, 96 * 1024, 4).blocks(gpu) == 2
    assert Usage(32, 0, 96 * 1024, 4).occupancy(gpu) == 8 / 64
    assert not Usage(32, 4, 0, 4).fits(gpu)
    assert not Usage(32, 0, 228 * 1024, 4).fits(gpu)
