"""Triton kernels compiled ahead of time, for a GPU that need not be there: code, registers, spills, shared memory."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from attnspec.codegen.gpus import Gpu, Usage
from attnspec.codegen.triton_kernel import TritonKey, is_wide, module
from attnspec.codegen.triton_schedule import KINDS, Candidates, Schedule, Shape, candidates
from attnspec.codegen.triton_signature import DTYPES, Types
from attnspec.runtime.cache import Cache
from attnspec.runtime.program import Program
from attnspec.runtime.triton_module import Needed, TritonError, load, plans, require

MANY = 1 << 20
"""More queries than any special case of few ones has."""

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
) -> Iterator[Compiled]:
    """The kernels of some kinds in a generated module, one after another; ``group`` query heads share their keys.

    Raises TritonError where triton is not there, or runs as an interpreter.
    """
    require()
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise TritonError("kernels cannot be compiled while TRITON_INTERPRET=1 is set")
    for name, function in vars(module).items():
        found = _KERNEL.fullmatch(name)
        if found and found[1] in kinds:
            yield _compiled(name, function, types, schedule.of(found[1]), gpu, group)


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = compile(
            ASTSource(function, signature, values, aligned),
            target=GPUTarget(gpu.backend, gpu.arch, gpu.warp),
            options={"num_warps": shape.warps, "num_stages": shape.stages},
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


def build(program: Program, sizes: Needed, dim: int, dtype: str, gpu: Gpu, group: int) -> Built:
    """The kernels of a program for a head size and an element type (``"bfloat16"``, ...).

    For each kind of kernel the first of the candidates that spills nothing and whose shared memory is there, or the
    last one; ``group`` query heads share their keys. Raises TritonError, SpecError.
    """

    def compile_some(schedule: Schedule, kinds: Collection[str]) -> Iterator[Compiled]:
        own = plans(program, sizes, schedule)
        loaded = _loaded(module(own, key, schedule))
        types = Types(own.forward.relation.spec, DTYPES[dtype], is_wide(own, key), loaded.ADDS, loaded.CARRY)
        return compiled(loaded, kinds, types, schedule, gpu, group)

    key = TritonKey(dim, dim)
    shapes = candidates(dim, 4 if dtype == "float32" else 2, MANY)
    schedule, kernels = fitting(shapes, compile_some, gpu)
    return Built(module(plans(program, sizes, schedule), key, schedule), tuple(kernels))


CompileSome = Callable[[Schedule, Collection[str]], Iterator[Compiled]]


def fitting(shapes: Candidates, compile_some: CompileSome, gpu: Gpu) -> tuple[Schedule, list[Compiled]]:
    """The first shapes, kind by kind, with which all kernels fit, and these; the last shapes where none does.

    ``compile_some`` compiles the kernels of some kinds, one after another; it is left as soon as one does not fit.
    """
    at, found = dict.fromkeys(KINDS, 0), dict[str, list[Compiled]]()
    for kind in KINDS:
        while True:
            last = at[kind] + 1 == len(shapes[kind])
            schedule = Schedule(*(shapes[other][at[other]] for other in KINDS))
            found[kind] = []
            for kernel in compile_some(schedule, (kind,)):
                found[kind].append(kernel)
                if not kernel.usage.fits(gpu) and not last:
                    break
            if last or all(kernel.usage.fits(gpu) for kernel in found[kind]):
                break
            at[kind] += 1
    schedule = Schedule(*(shapes[kind][at[kind]] for kind in KINDS))
    return schedule, [kernel for kind in KINDS for kernel in found[kind]]


def _loaded(text: str) -> ModuleType:
    """A module from its text: in a file in the cache, where triton reads the source of kernels."""
    cache, digest = Cache.default(), sha256(text.encode()).hexdigest()
    path = cache.file(digest, "kernel.py")
    path = path or cache.add(digest, lambda to: to.write_text(text, encoding="utf-8"), {}, "kernel.py")
    return load(f"attnspec_kernels_{digest[:16]}", str(path))
