"""Run by two processes: a step of training over segments of a batch that they share, against one process."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.support.recurrent import Small, close, tokens, wrapped


def main(rank: int, store: str) -> None:
    """Gradients of the mean over both halves, for two specs; then a stream whose state goes on."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for spec, more in (("rmt", {"slots": 2}), ("hmt", {"before": 3, "store": 2, "dim": 5})):
        ids = tokens(4, 30)
        alone = wrapped(Small(), spec, segment=8, **more)
        alone(ids, labels=ids).loss.backward()
        model = wrapped(Small(), spec, segment=8, **more)
        shared = DistributedDataParallel(model)
        mine = ids[2 * rank : 2 * rank + 2]
        for _ in range(2):  # the second step has the buckets of the first
            model.zero_grad()
            shared(mine, labels=mine).loss.backward()
        want = {name: p.grad for name, p in alone.named_parameters()}
        close({name: p.grad for name, p in model.named_parameters()}, want)  # type: ignore[arg-type]
    shared = DistributedDataParallel(model, find_unused_parameters=True)  # what stands at the start has no use later
    state = shared(mine, labels=mine).state.detach()
    torch.nn.Module.zero_grad(model)
    shared(mine, labels=mine, state=state).loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
