"""What processes of tests run; functions of a module, as those must be that other processes are sent."""

from __future__ import annotations

import os
import signal
import time

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import attnspec
from attnspec.runtime.core.arguments import CallError

_LOGIT = "input logit: float[heads]"


def sums(mode: str) -> tuple[int, float]:
    """The rank, and the sum of all ranks' numbers; rank 1 dies, fails or sleeps before it adds its own."""
    rank = dist.get_rank()
    if rank == 1 and mode == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 1 and mode == "leaves":
        os._exit(3)
    if rank == 1 and mode == "fails":
        raise ValueError("a number is missing")
    if rank == 1 and mode == "refuses":
        raise CallError("causal: q has 3 rows")
    if mode == "sleeps":
        os.write(1, f"ready {os.getpid()}\n".encode())  # at once: other ranks write there too
        time.sleep(600)
    number = torch.tensor(float(rank))
    dist.all_reduce(number)
    return rank, float(number)


def dtensors(kind: str) -> None:
    """Calls of DTensors over a mesh of two by two processes against calls of whole tensors, with gradients."""
    names = tuple(kind.split(" x "))
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=names)
    places = [{"dp": Shard(0), "cp": Shard(2), "tp": Shard(1)}[name] for name in names]
    tensor_parallel = "tp" in names
    n, heads, kv_heads, dim = 88, 4, 2, 8
    for text, shard, learned in (
        ("causal", "zigzag", ()),
        ("window(width=20)", "contiguous", ()),
        (f"attention a {{ {_LOGIT} attend causal  sink logit[h] }}", "contiguous", ("logit",)),
        (f"attention a {{ {_LOGIT} attend q - k < 30 within causal  score s + logit[h] }}", "zigzag", ("logit",)),
    ):
        attend = attnspec.compile("window", width=20) if text.startswith("window") else attnspec.compile(text)
        here = {"heads": heads // 2, "kv_heads": kv_heads // 2} if tensor_parallel else {"heads": heads, "kv_heads": 2}
        far = attnspec.distribute(attend, mesh["cp"], n=n, dim=dim, shard=shard, **here)
        torch.manual_seed(0)
        whole = [torch.randn(2, h, n, dim, requires_grad=True) for h in (heads, kv_heads, kv_heads)]
        inputs = {name: torch.linspace(-1, 1, heads).requires_grad_() for name in learned}
        out, lse = attend(*whole, return_lse=True, inputs=inputs)
        gradients = torch.autograd.grad(out.sin().sum() + lse.cos().sum(), [*whole, *inputs.values()])
        cut = {"dp": 0, "tp": 1}
        (other,) = (name for name in names if name != "cp")

        def mine(t: torch.Tensor, far: attnspec.Distributed = far, other: str = other) -> torch.Tensor:
            return far.shard(t.detach().chunk(2, cut[other])[mesh[other].get_local_rank()], 2)  # noqa: B023

        given = [DTensor.from_local(mine(t), mesh, places).requires_grad_() for t in whole]
        whole_here = [Replicate(), Replicate()]
        spread = {name: distribute_tensor(t.detach(), mesh, whole_here).requires_grad_() for name, t in inputs.items()}
        got, got_lse = far(*given, return_lse=True, inputs=spread)
        assert isinstance(got, DTensor)
        assert list(got.placements) == places
        total = got.sin().sum() + got_lse.cos().sum()
        found = torch.autograd.grad(total, [*given, *spread.values()])
        wanted = [mine(out), mine(lse), *(mine(t) for t in gradients[:3]), *gradients[3:]]
        results = [got, got_lse, *found]
        for number, (mine_, want) in enumerate(zip(results, wanted, strict=True)):
            assert isinstance(mine_, DTensor)
            local = (mine_.to_local() if number < 5 else mine_.full_tensor()).detach()
            error = float((local - want).abs().max())
            assert error < 3e-5, f"{text}, {kind}: result {number} is wrong by {error}"
