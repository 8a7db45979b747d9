"""Triton kernels as a Python module: written or found in the cache, and imported."""

from __future__ import annotations

import functools
import importlib.util
import sys
from dataclasses import dataclass
from hashlib import sha256
from importlib.machinery import SourceFileLoader
from types import CodeType, ModuleType
from typing import TYPE_CHECKING

from attnspec.codegen.triton.schedule import FEW, MOST_ROWS, Few, Schedule
from attnspec.errors.diagnostic import AttnspecError
from attnspec.runtime.core.arguments import check_tile
from attnspec.runtime.core.program import Needed, Program, facts, relation, spec
from attnspec.runtime.core.store import Cache

if TYPE_CHECKING:
    from attnspec.codegen.triton.module import Plans, TritonKey


class TritonError(AttnspecError, RuntimeError):
    """Triton is not there, or cannot run here."""


@dataclass(frozen=True)
class Made:
    """A module of kernels.

    ``given`` are the names of what it reads beside q, k and v; ``longest`` is the largest length for which its numbers
    are right, ``wide`` says that it reads positions and integers in 64 bits.
    """

    module: ModuleType
    path: str
    given: tuple[str, ...]
    wide: bool
    longest: int


def packed(program: Program, n_q: int, group: int, itemsize: int) -> int:
    """How many of the ``group`` query heads that share their keys share a tile of so many queries.

    All of them where there are few queries and the pattern does not tell heads apart; else 1. More than ``FEW`` rows of
    float32 (``itemsize`` 4) would not stay in registers.
    """
    if n_q > FEW or not facts(program).alike:
        return 1
    heads = Few.of(1, group).heads
    if program.tile is not None and program.tile[0] * heads > MOST_ROWS:
        return 1
    return 1 if itemsize == 4 and n_q * heads > FEW else group


@functools.lru_cache(maxsize=64)
def plans(program: Program, sizes: Needed, schedule: Schedule) -> Plans:
    """The plans of the three kinds of kernels; a tile that the user asked for holds for all of them."""
    from attnspec.codegen.plan.choose import plan
    from attnspec.codegen.tiles import Tile, square
    from attnspec.codegen.triton.module import Plans

    if program.tile is not None:
        check_tile(program.tile)
    lowered = relation(program, sizes)
    tiles = [shape.tile for shape in (schedule.forward, schedule.queries, schedule.keys)]
    fixed = None if program.tile is None else Tile(*program.tile)
    made = {tile: plan(lowered, fixed, program.layout, square(tile)) for tile in dict.fromkeys(tiles)}
    return Plans(*(made[tile] for tile in tiles))


@functools.lru_cache(maxsize=256)
def made(program: Program, key: TritonKey, sizes: Needed, schedule: Schedule) -> Made:
    """The module of a program. Raises TritonError where triton cannot be imported."""
    require()
    cache = Cache.default()
    note_key = sha256(f"triton\0{facts(program).kernel}\0{key}\0{sizes}\0{schedule}".encode()).hexdigest()
    note = cache.note(note_key)
    path = cache.file(str(note.get("module")), "kernel.py") if note else None
    if note is None or path is None or "longest" not in note:
        from attnspec.codegen.plan.lengths import longest
        from attnspec.codegen.triton.module import is_wide, module

        planned = plans(program, sizes, schedule)
        text = module(planned, key, schedule)
        digest = sha256(text.encode()).hexdigest()
        stages = {
            "source.attn": program.text,
            "params.json": program.params,
            "spec.txt": f"{spec(program)}\n",
            "relation.txt": f"{planned.forward.relation}\n",
            "plan.txt": f"{planned.forward}\n",
        }
        path = cache.file(digest, "kernel.py") or cache.add(
            digest, lambda to: to.write_text(text, encoding="utf-8"), stages, "kernel.py"
        )
        note = {"module": digest, "wide": is_wide(planned, key), "longest": longest(planned.all)}
        cache.set_note(note_key, note)
    found = load(f"attnspec_kernels_{note['module'][:16]}", str(path))
    return Made(found, str(path), tuple(found.GIVEN), bool(note["wide"]), int(note["longest"]))


class _Source(SourceFileLoader):
    """Reads a module's text each time: Python would believe compiled code beside it whatever it holds."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def load(name: str, path: str) -> ModuleType:
    """Import a generated module by its path."""
    if name in sys.modules:
        return sys.modules[name]
    described = importlib.util.spec_from_file_location(name, path, loader=_Source(name, path))
    assert described is not None
    assert described.loader is not None
    module = importlib.util.module_from_spec(described)
    sys.modules[name] = module  # triton looks up the globals of a kernel by the name of its module
    try:
        described.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def triton_version() -> str | None:
    """The version of triton; None where it cannot be imported."""
    try:
        import triton
    except ImportError:
        return None
    return str(triton.__version__)


def does_not_fit() -> type[Exception]:
    """What triton raises where a kernel needs more than the device has."""
    from triton.runtime.errors import OutOfResources

    return OutOfResources  # type: ignore[no-any-return]


def require() -> None:
    """Raises TritonError where triton cannot be imported, or is older than what the generated text needs."""
    try:
        import triton
    except ImportError as error:
        raise TritonError(
            f"kernels for GPUs need triton, which cannot be imported ({error}). The CUDA and ROCm builds of torch "
            "bring it; else: pip install 'triton>=3.6'"
        ) from None
    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if version < (3, 6):
        raise TritonError(
            f"kernels for GPUs need triton 3.6 or newer; this is {triton.__version__} (torch 2.11 brings 3.6)"
        )
