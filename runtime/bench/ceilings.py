"""What this machine can do at most: the rate of the micro-kernel and the bandwidth of a large copy."""

from __future__ import annotations

import ctypes
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from attnspec.codegen.cost.roofline import Device
from attnspec.runtime.core.store import Cache

_ROUNDS = 500_000
_COPY = 1 << 27  # floats: 512 MiB, larger than any cache


def ceilings() -> Device:
    """Measure this machine with torch's threads, some seconds, and remember the result.

    Raises CompilerError without a C++ compiler.
    """
    import torch  # here, so that reading a remembered result does not load it

    threads = torch.get_num_threads()
    flops = {dtype: _peak(dtype, threads) for dtype in ("float32", "bfloat16")}
    flops["float16"] = flops["float32"]  # the kernels compute float16 in float32
    source = torch.ones(_COPY)
    target = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / _median(lambda: target.copy_(source))
    name = f"this machine ({_processor()}, {threads} threads)"
    origin = (
        f"the micro-kernel on operands in cache, and a copy of {source.nbytes >> 20} MiB, {time.strftime('%Y-%m-%d')}"
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
        return float(function(_ROUNDS, threads)) / _median(lambda: function(_ROUNDS, threads))


def remembered() -> Device | None:
    """The machine's ceilings as they were measured last, or None."""
    note = Cache.default().note(_note())
    return None if note is None else Device(note["name"], note["flops"], note["bandwidth"], note["origin"])


def _note() -> str:
    identity = f"{platform.node()} {_processor()} {os.cpu_count()}"
    return f"device-{sha256(identity.encode()).hexdigest()[:32]}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _median(call: Callable[[], object], runs: int = 7) -> float:
    call()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
