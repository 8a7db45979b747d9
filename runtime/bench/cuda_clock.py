"""The time of a call on a GPU, between two events; what calls before it left in the L2 cache is flushed first.

The protocol of ``triton.testing.do_bench``: clearing a buffer that is larger than the cache also keeps the device busy
while the call is prepared on the host, so that launches are not counted where they are hidden in practice.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

_LEAST = 1 << 28
"""Bytes that are cleared at least; twice the cache where that is more."""


class CudaClock:
    """A clock for :func:`attnspec.runtime.bench.clock.race`, for calls on one device."""

    def __init__(self, device: torch.device) -> None:
        properties = torch.cuda.get_device_properties(device)
        size = max(_LEAST, 2 * int(getattr(properties, "L2_cache_size", 0)))
        self.device = device
        self._flushed = torch.empty(size, dtype=torch.int8, device=device)

    def __call__(self, call: Callable[[], object]) -> float:
        """Seconds that a call keeps the device busy."""
        with torch.cuda.device(self.device):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
            self._flushed.zero_()
            start.record()
            call()
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end)) / 1e3
