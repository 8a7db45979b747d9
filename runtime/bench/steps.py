"""Generation with the cache of a window, token by token: what a step takes and holds at first and at last."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from attnspec.runtime.attention import compile
from attnspec.runtime.caches.cache import Cache


@dataclass(frozen=True)
class Steps:
    """A generation: so many steps after a prompt that fills the window, with one token each.

    ``some`` are the steps at the beginning and at the end that are compared.
    """

    steps: int = 10_000
    some: int = 1_000
    width: int = 1024
    heads: int = 32
    kv_heads: int = 8
    dim: int = 128


@dataclass(frozen=True)
class End:
    """The first or the last steps: the median of a step's seconds, and the bytes after them of the cache and of memory.

    ``resident`` is what of the process is in memory, 0 where the system does not tell.
    """

    seconds: float
    held: int
    resident: int


@dataclass(frozen=True)
class Generated:
    """Both ends of a generation."""

    steps: Steps
    first: End
    last: End

    @property
    def times(self) -> float:
        """The time of a step at the end over that at the beginning."""
        return self.last.seconds / self.first.seconds


def generate(of: Steps, tick: Callable[[str], object] = lambda _: None) -> Generated:
    """Run it, on random tensors. Times are the processor's, of appending a token and attending."""
    generator = torch.Generator().manual_seed(0)

    def normal(heads: int, length: int) -> torch.Tensor:
        return torch.randn(1, heads, length, of.dim, generator=generator)

    cache = Cache(compile("window", width=of.width), batch=1, kv_heads=of.kv_heads, dim=of.dim)
    q, k, v = normal(of.heads, 1), normal(of.kv_heads, 1), normal(of.kv_heads, 1)
    spent, ends = [], []
    with torch.no_grad():
        cache.append(normal(of.kv_heads, of.width), normal(of.kv_heads, of.width))
        cache.attend(q)  # makes the kernel
        for step in range(1, of.steps + 1):
            if step % of.some == 1:
                tick(f"step {step:,} of {of.steps:,}")
            start = time.process_time()
            cache.append(k, v)
            cache.attend(q)
            spent.append(time.process_time() - start)
            if step in (of.some, of.steps):
                ends.append(End(statistics.median(spent[-of.some :]), cache.bytes, _resident()))
    return Generated(of, *ends)


def _resident() -> int:
    """The bytes of this process that are in memory."""
    if not sys.platform.startswith("linux"):
        return 0
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
