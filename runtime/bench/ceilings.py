"""What this machine can do at most: the rate of the micro-kernel and the bandwidth of a large copy."""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from attnspec.codegen.cost.roofline import Device
from attnspec.runtime.core.store import Cache

_ROUNDS = 5_000
"""For some milliseconds: other processes interrupt a longer call always, however often it is repeated."""
_STABLE, _STALE, _MOST_RUNS = 0.02, 100, 1_000
"""A measurement ends when so many calls in a row were not faster by this share, or after the last number of calls."""
_COPY, _PART = 1 << 27, 1 << 23
"""Floats: 512 MiB, larger than any cache, and how much of that is copied at a time."""


def ceilings() -> Device:
    """Measure this machine with torch's threads, some seconds, and remember the result in place of an earlier one.

    Raises CompilerError without a C++ compiler.
    """
    import torch  # here, so that reading a remembered result does not load it

    threads = torch.get_num_threads()
    flops = {dtype: _peak(dtype, threads) for dtype in ("float32", "bfloat16")}
    flops["float16"] = flops["float32"]  # the kernels compute float16 in float32
    source = torch.ones(_COPY)
    target = torch.empty_like(source)
    parts = itertools.cycle(zip(*(x.view(-1, _PART).unbind() for x in (target, source)), strict=True))

    def copy() -> None:
        to, part = next(parts)
        to.copy_(part)

    bandwidth = 2 * source[:_PART].nbytes / _least(copy)
    name = f"this machine, {threads} thread{'s' * (threads != 1)}"
    origin = (
        f"{processor()}: the micro-kernel on operands in cache, and a copy of {source.nbytes >> 20} MiB in parts, "
        f"{time.strftime('%Y-%m-%d')}{busy()}"
    )
    found = Device(name, flops, bandwidth, origin)
    Cache.default().set_note(_note(), asdict(found))
    return found


def _peak(dtype: str, threads: int) -> float:
    """Operations per second of the micro-kernel on operands in cache, on all threads."""
    from attnspec.codegen.cpp.kernel import peak_kernel
    from attnspec.runtime.cpp.compiler import compiler
    from attnspec.runtime.cpp.load import loaded

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peak.so"
        compiler().compile(peak_kernel(dtype), path)
        function = loaded(path).attnspec_peak
        function.restype, function.argtypes = ctypes.c_double, [ctypes.c_int64, ctypes.c_int32]
        return float(function(_ROUNDS, threads)) / _least(lambda: function(_ROUNDS, threads))


def remembered() -> Device | None:
    """The machine's ceilings as they were measured last, or None."""
    note = Cache.default().note(_note())
    return None if note is None else Device(note["name"], note["flops"], note["bandwidth"], note["origin"])


def busy() -> str:
    """What to add to figures that were measured while the machine had other work; nothing if it had none."""
    load, processors = os.getloadavg()[0], os.cpu_count() or 1
    if load <= processors + 0.5:
        return ""
    return f"; other work kept it busy (load {load:.1f}, {processors} processors): perhaps too low"


def forget() -> bool:
    """Forget the machine's ceilings; whether there were any."""
    return Cache.default().remove_note(_note())


def _note() -> str:
    identity = f"{platform.node()} {processor()} {os.cpu_count()}"
    return f"device-{sha256(identity.encode()).hexdigest()[:32]}"


def processor() -> str:
    """The processor by its name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _least(call: Callable[[], object]) -> float:
    """The least seconds of a call, which other work on the machine can only add to: until more rounds find no less."""
    call()
    best, stale = math.inf, 0
    for _ in range(_MOST_RUNS):
        start = time.perf_counter()
        call()
        spent = time.perf_counter() - start
        stale = 0 if spent < best * (1 - _STABLE) else stale + 1
        best = min(best, spent)
        if stale == _STALE:
            break
    return best
