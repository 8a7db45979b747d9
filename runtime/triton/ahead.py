"""Triton kernels compiled ahead of time, for a GPU that need not be there: code, registers, spills, shared memory."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from attnspec.codegen.cost.gpus import Gpu, Usage
from attnspec.codegen.triton.module import TritonKey, is_wide, module
from attnspec.codegen.triton.schedule import FEW, KINDS, Candidates, Few, Schedule, Shape, candidates, likely
from attnspec.codegen.triton.signature import DTYPES, Types
from attnspec.runtime.core.program import Needed, Program, facts
from attnspec.runtime.core.store import Cache
from attnspec.runtime.triton.module import TritonError, load, packed, plans, require

_KERNEL = re.compile(rf"({'|'.join(KINDS)})_\d+")


@dataclass(frozen=True)
class Compiled:
    """A kernel for one GPU: what it takes, and its code by the suffix of a file (``ptx``, ``cubin``, ...)."""

    name: str
    shape: Shape
    usage: Usage
    code: Mapping[str, str | bytes]

    @property
    def kind(self) -> str:
        """Which of ``KINDS`` it is of."""
        return self.name.rsplit("_", 1)[0]


def compiled(
    module: ModuleType, kinds: Collection[str], types: Types, schedule: Schedule, gpu: Gpu, group: int
) -> list[Compiled]:
    """The kernels of some kinds in a generated module, in its order; ``group`` query heads share their keys.

    They are compiled side by side, on all processors.
    """
    found = [(name, _KERNEL.fullmatch(name)) for name in vars(module)]
    wanted = [(name, match[1]) for name, match in found if match and match[1] in kinds]

    def one(name: str, kind: str) -> Compiled:
        return _compiled(name, getattr(module, name), types, schedule.of(kind), gpu, group)

    with warnings.catch_warnings(), ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        warnings.simplefilter("ignore")
        return list(threads.map(one, *zip(*wanted, strict=True))) if wanted else []


def _compiled(name: str, function: Any, types: Types, shape: Shape, gpu: Gpu, group: int) -> Compiled:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    constants = {"PRECISION": "ieee", "GROUP": group}
    signature = {p: "constexpr" if p in constants else types.of(p) for p in function.arg_names}
    values = {(i,): constants[p] for i, p in enumerate(function.arg_names) if p in constants}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, p in enumerate(function.arg_names)
        if p not in constants and types.aligned(p)
    }
    made = compile(
        ASTSource(function, signature, values, aligned),
        target=GPUTarget(gpu.backend, gpu.arch, gpu.warp),
        options=shape.options,
    )
    if gpu.backend == "hip":
        text = made.asm["amdgcn"]
        # Scalars that find no register go to lanes of vector registers, not to memory: these are no spills.
        registers = _number(text, r"\.vgpr_count:\s*(\d+)")
        spilled = 4 * _number(text, r"\.vgpr_spill_count:\s*(\d+)")
        code: dict[str, str | bytes] = {"amdgcn": text, "hsaco": made.asm["hsaco"]}
    else:
        registers, spilled = _resources(made.asm["cubin"])
        code = {"ptx": made.asm["ptx"], "cubin": made.asm["cubin"]}
    code |= {"ttir": made.asm["ttir"]}
    return Compiled(name, shape, Usage(registers, spilled, made.metadata.shared, shape.warps), code)


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers of a thread, and the bytes of its stack: these kernels have nothing there but what was spilled."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        raise TritonError(f"no {tool}: registers and spills cannot be told")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "-res-usage", file.name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode or "REG:" not in done.stdout:
        raise TritonError(f"cuobjdump failed: {done.stderr[-2000:]}")
    return _number(done.stdout, r"REG:(\d+)"), _number(done.stdout, r"STACK:(\d+)")


def _number(text: str, pattern: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


@dataclass(frozen=True)
class Built:
    """The text of a module and its kernels."""

    text: str
    kernels: tuple[Compiled, ...]

    def fits(self, gpu: Gpu) -> bool:
        """Whether all kernels do."""
        return all(kernel.usage.fits(gpu) for kernel in self.kernels)


def build(
    program: Program,
    sizes: Needed,
    dim: int,
    dtype: str,
    gpu: Gpu,
    group: int,
    n_q: int | None = None,
    part: bool = False,
) -> Built:
    """The kernels of a program for a head size and an element type (``"bfloat16"``, ...).

    For each kind of kernel the first of the candidates that spills nothing and whose shared memory is there, or the
    last one; ``group`` query heads share their keys, ``n_q`` are the queries of a call (None: many). Kernels for a
    ``part`` add to what is given. Raises SpecError, and TritonError where triton is not there, or
    runs as an interpreter.
    """
    require()
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise TritonError("kernels cannot be compiled while TRITON_INTERPRET=1 is set")
    itemsize, n_q = 4 if dtype == "float32" else 2, FEW + 1 if n_q is None else n_q
    few = Few.of(n_q, packed(program, n_q, group, itemsize))
    carry = part and not facts(program).separate
    key, known = (
        TritonKey(dim, dim, part=part, carry=carry, heads=few.heads),
        dict[tuple[str, Shape, Types], list[Compiled]](),
    )

    def build_with(schedule: Schedule) -> Built:
        planned = plans(program, sizes, schedule)
        text = module(planned, key, schedule)
        loaded = _loaded(text)
        types = Types(
            planned.forward.relation.spec, DTYPES[dtype], is_wide(planned, key), loaded.ADDS, loaded.CARRY, dim
        )
        # What a kernel takes from the plans of other kinds is in its types.
        new = {kind for kind in KINDS if (kind, schedule.of(kind), types) not in known}
        made = compiled(loaded, new, types, schedule, gpu, group)
        known.update({(kind, schedule.of(kind), types): [k for k in made if k.kind == kind] for kind in new})
        return Built(text, tuple(k for kind in KINDS for k in known[kind, schedule.of(kind), types]))

    shapes = candidates(dim, itemsize, n_q, few.heads) if n_q <= FEW else likely(gpu.name, dim, itemsize)
    return fitting(shapes, build_with, gpu)


def fitting(shapes: Candidates, build_with: Callable[[Schedule], Built], gpu: Gpu) -> Built:
    """Kernels with the first shape of each kind with which all kernels of that kind fit, or with the last."""
    at = dict.fromkeys(KINDS, 0)
    while True:
        built = build_with(Schedule(*(shapes[kind][at[kind]] for kind in KINDS)))
        large = {kernel.kind for kernel in built.kernels if not kernel.usage.fits(gpu)}
        large = {kind for kind in large if at[kind] + 1 < len(shapes[kind])}
        if not large:
            return built
        for kind in large:
            at[kind] += 1


def _loaded(text: str) -> ModuleType:
    """A module from its text: in a file in the cache, where triton reads the source of kernels."""
    cache, digest = Cache.default(), sha256(text.encode()).hexdigest()
    path = cache.file(digest, "kernel.py")
    path = path or cache.add(digest, lambda to: to.write_text(text, encoding="utf-8"), {}, "kernel.py")
    return load(f"attnspec_kernels_{digest[:16]}", str(path))
