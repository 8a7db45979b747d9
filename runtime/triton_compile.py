"""Triton kernels compiled ahead of time, for a GPU that need not be there: code, registers, spills, shared memory."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
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


def compiled(module: ModuleType, types: Types, schedule: Schedule, gpu: Gpu, group: int) -> Iterator[Compiled]:
    """All kernels of a generated module, one after another; ``group`` query heads share their keys.

    Raises TritonError where triton is not there, or runs as an interpreter.
    """
    require()
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise TritonError("kernels cannot be compiled while TRITON_INTERPRET=1 is set")
    for name, function in vars(module).items():
        if found := _KERNEL.fullmatch(name):
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
        registers, spilled = _assembled(made.asm["ptx"], gpu)
        code = {"ptx": made.asm["ptx"], "cubin": made.asm["cubin"]}
    code |= {"ttir": made.asm["ttir"]}
    return Compiled(name, shape, Usage(registers, spilled, made.metadata.shared, shape.warps), code)


def _assembled(ptx: str, gpu: Gpu) -> tuple[int, int]:
    """Registers of a thread and the bytes it spills, as NVIDIA's assembler reports them."""
    found = re.search(r"\.target (sm_\w+)", ptx)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx, encoding="utf-8")
        command = [_assembler(), "-v", f"-arch={found[1] if found else gpu.name}", str(source), "-o", os.devnull]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise TritonError(f"{Path(command[0]).name} failed: {done.stderr[-2000:]}")
    return _number(done.stderr, r"Used (\d+) registers"), _number(done.stderr, r"(\d+) bytes spill stores")


def _assembler() -> str:
    import triton

    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    for name in ("ptxas-blackwell", "ptxas"):  # the newer one reads the newest PTX
        if (folder / name).exists():
            return str(folder / name)
    raise TritonError(f"no ptxas in {folder}: registers and spills cannot be told")


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

    def compile_all(schedule: Schedule) -> Built:
        own = plans(program, sizes, schedule)
        text = module(own, key, schedule)
        loaded = load(f"attnspec_ahead_{sha256(text.encode()).hexdigest()[:16]}", str(_written(text)))
        types = Types(own.forward.relation.spec, DTYPES[dtype], is_wide(own, key), loaded.ADDS, loaded.CARRY)
        return Built(text, tuple(compiled(loaded, types, schedule, gpu, group)))

    key = TritonKey(dim, dim)
    return fitting(candidates(dim, 4 if dtype == "float32" else 2, MANY), compile_all, gpu)


def fitting(shapes: Candidates, compile_all: Callable[[Schedule], Built], gpu: Gpu) -> Built:
    """The first shapes, kind by kind, with which all kernels fit; the last ones where none does."""
    at = dict.fromkeys(KINDS, 0)
    while True:
        built = compile_all(Schedule(*(shapes[kind][at[kind]] for kind in KINDS)))
        failed = {kernel.kind for kernel in built.kernels if not kernel.usage.fits(gpu)}
        moves = [kind for kind in failed if at[kind] + 1 < len(shapes[kind])]
        if not moves:
            return built
        for kind in moves:
            at[kind] += 1


def _written(text: str) -> Path:
    """A file with the text, in the cache: triton reads the source of a kernel from its file."""
    cache, digest = Cache.default(), sha256(text.encode()).hexdigest()
    found = cache.file(digest, "kernel.py")
    return found or cache.add(digest, lambda to: to.write_text(text, encoding="utf-8"), {}, "kernel.py")
