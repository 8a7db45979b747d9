"""The balancer for PyTorch's own context parallel: exact work, whole blocks, and what PyTorch makes of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor.experimental._attention import _context_parallel_shard
from torch.testing._internal.distributed.fake_pg import FakeStore

import attnspec
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.distributed.balancer import BLOCK, LoadBalancer

N, RANKS = 2048, 4


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """As rank 2 of four sees it; messages go nowhere."""
    dist.init_process_group("fake", rank=2, world_size=RANKS, store=FakeStore())
    yield init_device_mesh("cpu", (RANKS,))
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("text", "heads", "worst"),
    [
        ("attention a { attend window(300) or k < 10 or q < 10 }", 1, 1.06),
        pytest.param("attention a { attend causal }", 1, 1.0, marks=pytest.mark.slow),
        pytest.param("attention a { attend q - k <= 100 * h within causal }", 3, 1.05, marks=pytest.mark.slow),
        pytest.param("attention a { attend k < 0 }", 1, 1.0, marks=pytest.mark.slow),
    ],
)
def test_ranks_have_equal_rows_and_the_work_that_masks_have(text: str, heads: int, worst: float) -> None:
    balancer = LoadBalancer(attnspec.compile(text), N, RANKS, heads=heads)
    order = balancer._generate_indices()
    assert order.shape == (1, N)
    assert torch.equal(order[0][balancer._generate_indices(restore=True)[0]], torch.arange(N))
    blocks = order.view(-1, BLOCK)
    assert (blocks.diff(dim=1) == 1).all()  # and so the tiles of block masks stay whole
    mask = attnspec.read(text).mask(N, heads=heads)
    work = torch.from_numpy(mask).sum((0, 1, 3))[order[0]].view(RANKS, -1).sum(1).double()
    assert balancer.imbalance == pytest.approx(float(work.max() / work.mean()) if work.any() else 1.0)
    assert balancer.imbalance <= worst


@pytest.mark.slow
def test_pytorch_deals_out_by_it(mesh: DeviceMesh) -> None:
    balancer = LoadBalancer(attnspec.compile("causal"), N, RANKS)
    whole = torch.arange(2 * N * 3).view(2, N, 3)
    (mine,) = _context_parallel_shard(mesh, [whole], [1], balancer)  # type: ignore[arg-type]
    assert torch.equal(mine, whole[:, balancer._generate_indices()[0].view(RANKS, -1)[2]])  # type: ignore[arg-type]


def test_what_it_cannot_know_is_refused() -> None:
    with pytest.raises(CallError, match="packed: what a call holds decides about pairs"):
        LoadBalancer(attnspec.compile("packed"), N, RANKS)
    with pytest.raises(CallError, match="reformer: what a call holds decides about pairs"):
        LoadBalancer(attnspec.compile("reformer"), N, RANKS)
    with pytest.raises(ValueError, match="n = 2,000 is not a multiple of 128 x 4 ranks"):
        LoadBalancer(attnspec.compile("causal"), 2000, RANKS)
