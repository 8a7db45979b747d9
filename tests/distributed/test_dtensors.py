"""DTensors and models over ranks: placements in, placements out, results and gradients of one device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import parallelize_module

import attnspec
from attnspec import CallError
from attnspec.distributed import ContextParallel
from attnspec.nn import SpecAttention
from attnspec.runtime.distributed.launch import on_processes
from tests.support import launched

N, HEADS, DIM = 48, 4, 8


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """Of one process: its dimensions are of one rank each."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1, 1, 1), mesh_dim_names=("dp", "cp", "tp"))
    dist.destroy_process_group()


def _vectors() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, h, N, DIM, requires_grad=True) for h in (HEADS, 2, 2)]


def test_dtensors_go_in_and_come_out_as_they_were_placed(mesh: DeviceMesh) -> None:
    attend = attnspec.compile("causal")
    far = attnspec.distribute(attend, mesh["cp"], n=N, heads=HEADS, kv_heads=2, dim=DIM)
    plain, places = _vectors(), [Shard(0), Shard(2), Shard(1)]
    spread = [DTensor.from_local(t, mesh, places) for t in plain]
    out, lse = far(*spread, return_lse=True)
    assert isinstance(out, DTensor)
    assert isinstance(lse, DTensor)
    assert out.placements == lse.placements == tuple(places)
    found = torch.autograd.grad(out.to_local().sin().sum() + lse.to_local().sum(), plain)
    want, want_lse = attend(*plain, return_lse=True)
    assert torch.allclose(out.to_local(), want, atol=1e-6)
    for got, gradient in zip(found, torch.autograd.grad(want.sin().sum() + want_lse.sum(), plain), strict=True):
        assert torch.allclose(got, gradient, atol=1e-5)


def test_placements_that_mean_something_else_are_refused_by_name(mesh: DeviceMesh) -> None:
    q, k, v = (t.detach() for t in _vectors())
    far = attnspec.distribute(attnspec.compile("causal"), mesh["cp"], n=N, heads=HEADS, kv_heads=2, dim=DIM)
    by_head = attnspec.distribute(attnspec.compile("alibi"), mesh["cp"], n=N, heads=HEADS, kv_heads=2, dim=DIM)

    def placed(*places: Shard | Replicate) -> list[Tensor]:
        return [DTensor.from_local(t, mesh, places) for t in (q, k, v)]

    rows, whole = Shard(2), Replicate()
    for call, tensors, message in (
        (far, [*placed(whole, rows, whole)[:2], v], "causal: v is a plain tensor and others are DTensors"),
        (far, placed(whole, whole, whole), r"\(dp: R, cp: R, tp: R\): Shard\(2\) along one dimension of the mesh"),
        (far, placed(whole, Shard(3), whole), "batch entries, heads or rows may be sharded, and nothing else"),
        (far, [placed(whole, rows, whole)[0], *placed(Shard(0), rows, whole)[1:]], "k is placed as .*, and q as"),
        (by_head, placed(whole, rows, Shard(1)), "alibi tells heads apart by number"),
    ):
        with pytest.raises(CallError, match=message):
            call(*tensors)


def test_a_model_is_parallelized_where_its_attention_is(mesh: DeviceMesh) -> None:
    layer = SpecAttention("window", width=8)
    far = attnspec.distribute(layer.attend, mesh["cp"], n=N, heads=HEADS, kv_heads=2, dim=DIM)
    model = nn.ModuleDict({"layers": nn.ModuleList([layer, SpecAttention("window", width=8)]), "norm": nn.Identity()})
    parallelize_module(model, mesh["cp"], {"layers.*": ContextParallel(far)})
    assert all(one.attend is far for one in model["layers"])  # type: ignore[union-attr]
    q, k, v = _vectors()
    assert torch.equal(model["layers"][1](q, k, v), far(q, k, v))  # type: ignore[index]
    for module, message in (
        (nn.Identity(), "window: Identity holds no attention"),
        (SpecAttention("window", width=9), r"SpecAttention.attend is <attnspec window\(width=9\)"),
    ):
        with pytest.raises(CallError, match=message):
            parallelize_module(module, mesh["cp"], ContextParallel(far))


@pytest.mark.slow
def test_over_processes_with_batch_entries_rows_and_heads_sharded() -> None:
    assert on_processes(4, launched.dtensors, "cp x tp") == [None] * 4
    assert on_processes(4, launched.dtensors, "dp x cp") == [None] * 4
