"""The schedule of Triton kernels on a GPU: measured once for each architecture, head size and element type.

What is timed is causal attention over one length; the fastest of the candidates of each kind of kernel is kept on disk,
in the kernel cache. Nothing is measured on the CPU (triton's interpreter), or while a CUDA graph is captured.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor

from attnspec.codegen.tiles import Tile
from attnspec.codegen.triton.schedule import (
    FEW,
    KINDS,
    Candidates,
    Few,
    Schedule,
    Shape,
    bucket,
    candidates,
    schedule_for,
)
from attnspec.runtime.core.program import Program, fingerprint
from attnspec.runtime.core.store import Cache

CAUSAL = Program.of("attention causal_ { attend causal }", "<tune>", None, {}, None, "auto", "triton")
LENGTH, HEADS, RUNS = 4096, 16, 5
log = logging.getLogger("attnspec")

_FOUND: dict[tuple[str, torch.device, int, torch.dtype, Few | None], Schedule] = {}

Clock = Callable[[Callable[[], object]], float]


def schedule(q: Tensor, v: Tensor, group: int = 1) -> Schedule:
    """The schedule for a call of these tensors; ``group`` query heads may share a tile of few queries."""
    dim, n_q = max(q.shape[3], v.shape[3]), q.shape[2]
    if not q.is_cuda:
        return schedule_for(dim, q.dtype.itemsize, n_q, group)
    few = Few.of(n_q, group) if n_q <= FEW else None
    key = (architecture(q.device), q.device, bucket(dim), q.dtype, few)
    if key not in _FOUND:
        if torch.cuda.is_current_stream_capturing():
            return schedule_for(dim, q.dtype.itemsize, n_q, group)
        _FOUND[key] = _known(*key)
    return _FOUND[key]


def architecture(device: torch.device) -> str:
    """``sm_90``, ``gfx942``, ...: what schedules are kept by."""
    properties = torch.cuda.get_device_properties(device)
    name = str(getattr(properties, "gcnArchName", "")).split(":")[0]
    return name or f"sm_{properties.major}{properties.minor}"


def _known(arch: str, device: torch.device, dim: int, dtype: torch.dtype, few: Few | None) -> Schedule:
    cache, kind = Cache.default(), "many" if few is None else f"{few.rows}x{few.heads}"
    key = f"schedule-{arch}-{dim}-{str(dtype).removeprefix('torch.')}-{kind}-{fingerprint()[:16]}"
    n_q, group = (LENGTH, 1) if few is None else (few.rows, few.heads)
    shapes = candidates(dim, dtype.itemsize, n_q, group)
    note = cache.note(key)
    if note is not None and note.keys() == set(KINDS):
        return Schedule(*(_shape(note[kind]) for kind in KINDS))
    log.info("measuring schedules for head size %d, %s on %s: once on this machine", dim, dtype, arch)
    shape = (max(HEADS, group), n_q), (max(HEADS, group) // group, LENGTH)
    q, k = (torch.randn(1, *own, dim, device=device, dtype=dtype) for own in shape)
    found = measured(shapes, q, k, _cuda_clock)
    cache.set_note(key, {kind: _numbers(found.of(kind)) for kind in KINDS})
    return found


def measured(shapes: Candidates, q: Tensor, k: Tensor, clock: Clock) -> Schedule:
    """The fastest candidate of each kind for causal attention of q (batch, heads, n_q, dim) to k (the values too).

    Heads of q that share their keys share a tile of the forward kernel.
    ``clock`` gives the time of a call. Candidates that need more than the device has are left out; where all do, the
    last one is taken.
    """
    best = Schedule(*(shapes[kind][0] for kind in KINDS))
    for kind in KINDS:
        times = {shape: time_of(kind, replace(best, **{kind: shape}), q, k, clock) for shape in shapes[kind]}
        known = {shape: time for shape, time in times.items() if time is not None}
        fastest = min(known, key=lambda shape: known[shape]) if known else shapes[kind][-1]
        best = replace(best, **{kind: fastest})
    return best


def time_of(kind: str, schedule: Schedule, q: Tensor, k: Tensor, clock: Clock) -> float | None:
    """The time of one kernel with a schedule; None where it cannot run."""
    from attnspec.codegen.triton.module import TritonKey
    from attnspec.runtime.triton.module import does_not_fit, made

    key = TritonKey(q.shape[3], q.shape[3], heads=q.shape[1] // k.shape[1])
    module = made(CAUSAL, key, (), schedule).module
    out, dq, dk, dv = (torch.empty_like(t) for t in (q, q, k, k))
    lines = q.new_zeros((1, *q.shape[:3]), dtype=torch.float32)
    norms = lines.new_zeros((1, 3, *q.shape[:3]))
    rows = (q, k, k, out, norms[0], lines, dq)
    launches: dict[str, Callable[[], object]] = {
        "forward": lambda: module.launch_forward(q, k, k, out[None], lines, norms, 0.1, {}, "ieee", 1),
        "queries": lambda: module.launch_queries(*rows, 0.1, {}, {}, "ieee"),
        "keys": lambda: module.launch_keys(*rows[:-1], dk, dv, 0.1, {}, "ieee"),
    }
    try:
        launches[kind]()
    except does_not_fit():
        return None
    return clock(launches[kind])


def _cuda_clock(launch: Callable[[], object]) -> float:
    """The median time of some runs, in milliseconds."""
    times = []
    for _ in range(RUNS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        launch()
        end.record()
        end.synchronize()
        times.append(float(begin.elapsed_time(end)))
    return median(times)


def _numbers(shape: Shape) -> list[int]:
    return [shape.tile.rows, shape.tile.columns, shape.warps, shape.stages]


def _shape(numbers: list[int]) -> Shape:
    rows, columns, warps, stages = numbers
    return Shape(Tile(rows, columns), warps, stages)
