"""What processes of tests run; functions of a module, as those must be that other processes are sent."""

from __future__ import annotations

import os
import signal
import time

import torch
import torch.distributed as dist

from attnspec.runtime.core.arguments import CallError


def sums(mode: str) -> tuple[int, float]:
    """The rank, and the sum of all ranks' numbers; rank 1 dies, fails or sleeps before it adds its own."""
    rank = dist.get_rank()
    if rank == 1 and mode == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
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
