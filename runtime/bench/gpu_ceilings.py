"""What a GPU can do at most, measured once: the rate of large matrix products and the bandwidth of a large copy.

Kept in the kernel cache with the GPU's name, where ``attnspec inspect`` finds it without importing torch.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from typing import TYPE_CHECKING

from attnspec.codegen.cost.roofline import Device
from attnspec.runtime.core.store import Cache

if TYPE_CHECKING:
    import torch

RUNS = 7
_SIZE = {"float32": 4096, "bfloat16": 8192, "float16": 8192}
_COPY = 1 << 30
"""Bytes: larger than any cache."""


def gpu_ceilings(device: torch.device, again: bool = False) -> Device:
    """The ceilings of a GPU: remembered, or measured in a second or two."""
    import torch

    name = torch.cuda.get_device_name(device)
    known = next((item for item in remembered() if item.name == name), None)
    if known is not None and not again:
        return known
    from attnspec.runtime.bench.cuda_clock import CudaClock

    clock = CudaClock(device)
    flops = {dtype: 2 * size**3 / _median(_product(device, dtype, size), clock) for dtype, size in _SIZE.items()}
    source = torch.ones(_COPY, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * _COPY / _median(lambda: target.copy_(source), clock)
    units = torch.cuda.get_device_properties(device).multi_processor_count
    sizes = ", ".join(f"{size} ({dtype})" for dtype, size in _SIZE.items())
    origin = f"torch.matmul of squares of {sizes}, and a copy of {_COPY >> 20} MiB, {time.strftime('%Y-%m-%d')}"
    found = Device(name, flops, bandwidth, origin, units)
    remember(found)
    return found


def remember(found: Device) -> None:
    """Keep a GPU's ceilings; those of others stay."""
    cache = Cache.default()
    known = cache.note(_note()) or {}
    cache.set_note(_note(), {**known, found.name: asdict(found)})


def remembered() -> tuple[Device, ...]:
    """The GPUs of this machine whose ceilings were measured."""
    note = Cache.default().note(_note()) or {}
    return tuple(Device(**item) for item in note.values())


def _note() -> str:
    return f"gpus-{sha256(platform.node().encode()).hexdigest()[:32]}"


def _product(device: torch.device, dtype: str, size: int) -> Callable[[], object]:
    import torch

    left, right = (torch.randn(size, size, device=device).to(getattr(torch, dtype)) for _ in range(2))
    return lambda: left @ right


def _median(call: Callable[[], object], clock: Callable[[Callable[[], object]], float]) -> float:
    for _ in range(2):
        call()
    return statistics.median(clock(call) for _ in range(RUNS))
