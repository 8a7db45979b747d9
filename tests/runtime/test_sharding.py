"""Distributed tensors: each process computes its part of a call, or all of it where the parts know of each other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard

import attnspec
from tests.support.oracle import tensors


@pytest.mark.slow
def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    """Results and gradients, over gloo."""
    command = [sys.executable, "-m", "tests.support.distributed"]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store")], stderr=subprocess.PIPE, text=True, env=environment
        )
        for rank in range(2)
    ]
    ends = [process.communicate(timeout=600) for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(error for _, error in ends)


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """Of two times two processes, of which there is one: nothing may be asked of the others."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    try:
        yield init_device_mesh("cpu", (2, 2))
    finally:
        dist.destroy_process_group()


def test_batch_and_heads_are_shared_out(mesh: DeviceMesh) -> None:
    """What process 0 computes is the first entry's first heads, without talking to the others."""
    attend = attnspec.compile("causal")
    whole = tensors(30, heads=4, kv_heads=2, batch=2)
    want = attend(*whole, return_lse=True)
    gradients = torch.autograd.grad(want[0].sin().sum() + want[1].sum(), whole)
    here = [t.detach()[:1, : t.shape[1] // 2].clone().requires_grad_() for t in whole]
    places = [Shard(0), Shard(1)]
    got = attend(*(DTensor.from_local(t, mesh, places) for t in here), return_lse=True)
    for t, of in zip(got, want, strict=True):
        assert isinstance(t, DTensor)
        assert t.placements == (Shard(0), Shard(1))
        assert t.shape == of.shape
        torch.testing.assert_close(t.to_local(), of[:1, :2])
    mine = torch.autograd.grad(got[0].to_local().sin().sum() + got[1].to_local().sum(), here)
    for a, b in zip(mine, gradients, strict=True):
        torch.testing.assert_close(a, b[:1, : b.shape[1] // 2])


def test_wrong_mixtures_of_tensors(mesh: DeviceMesh) -> None:
    attend = attnspec.compile("packed")
    plain = torch.zeros(2, 4, 10, 8)
    spread = DTensor.from_local(plain, mesh, [Replicate(), Replicate()])
    doc = torch.zeros(2, 10, dtype=torch.int64)
    with pytest.raises(attnspec.CallError, match="input `doc` is a plain tensor and others are DTensors"):
        attend(spread, spread, spread, doc=doc)
    with pytest.raises(attnspec.CallError, match="q is a plain tensor"):
        attend(plain, spread, spread, doc=doc)
    with pytest.raises(attnspec.CallError, match=r"has the shape \(2, 11\)"):
        attend(spread, spread, spread, doc=torch.zeros(2, 11, dtype=torch.int64))
    other = DTensor.from_local(plain, init_device_mesh("cpu", (4,)), [Replicate()])
    with pytest.raises(attnspec.CallError, match="k is distributed over"):
        attend(spread, other, spread, doc=DTensor.from_local(doc, mesh, [Replicate(), Replicate()]))


@pytest.mark.slow
def test_nothing_is_imported_for_it() -> None:
    code = """
import sys, torch, attnspec
attnspec.compile("causal")(*torch.zeros(3, 1, 1, 4, 8))
assert "torch.distributed.tensor" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
