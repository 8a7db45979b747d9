"""Kernels as functions: built or found in the cache, loaded with ctypes."""

from __future__ import annotations

import ctypes
import functools
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnspec.codegen.cpp.unit import KernelKey, LinearKey
from attnspec.runtime.core.program import Needed, Program, facts, plan
from attnspec.runtime.core.store import Cache, CacheError
from attnspec.runtime.cpp.compiler import Compiler, compiler

if TYPE_CHECKING:
    from attnspec.codegen.plan.plan import Plan

_LOG = logging.getLogger("attnspec")
_TOLD = ("carry", "several", "plain", "wide", "natural")
_LONG = 1.0
"""Seconds from which on making a kernel is worth a line in the log."""


@dataclass(frozen=True)
class Native:
    """A loaded kernel.

    ``carry``, ``plain`` and ``wide`` say what it is called with: see ``KernelKey`` and ``Plan.plain``. ``several``:
    its passes add to each other's results (``Plan.carry``).
    ``natural``: its scores are in natural units, not in those of log2.
    ``longest`` is the largest length for which its numbers are right.
    """

    function: Callable[[Any], int]
    path: str
    carry: bool
    several: bool
    plain: bool
    wide: bool
    natural: bool
    longest: int


@functools.lru_cache(maxsize=512)
def native(program: Program, key: KernelKey | LinearKey, sizes: Needed) -> Native:
    """The kernel of a program for one call's element type and sizes: loaded, found on disk, or compiled."""
    cache, tool = Cache.default(), compiler()
    note_key = sha256(f"{facts(program).kernel}\0{key!r}\0{sizes}\0{tool.identity}".encode()).hexdigest()
    found = _found(cache, note_key)
    if found is None:
        with cache.turn(note_key):  # all ranks of a job want the same kernels at their first call
            found = _found(cache, note_key) or _made(cache, tool, note_key, program, key, sizes)
    note, path = found
    function = getattr(loaded(path), f"attnspec_{key.direction}")
    function.restype = ctypes.c_int
    function.argtypes = [ctypes.c_void_p]
    carry, several, plain, wide, natural = (bool(note[name]) for name in _TOLD)
    return Native(function, str(path), carry, several, plain, wide, natural, int(note["longest"]))


def _found(cache: Cache, note_key: str) -> tuple[dict[str, Any], Path] | None:
    """What is known of a kernel, and where it lies; None where it is yet to be made."""
    note = cache.note(note_key)
    path = cache.library(str(note.get("kernel"))) if note else None
    return None if note is None or path is None or "longest" not in note else (note, path)


def _made(
    cache: Cache, tool: Compiler, note_key: str, program: Program, key: KernelKey | LinearKey, sizes: Needed
) -> tuple[dict[str, Any], Path]:
    """The same of a kernel that is made now."""
    from attnspec.codegen.cpp.kernel import is_wide, kernel
    from attnspec.codegen.plan.lengths import longest
    from attnspec.spec.real import Score

    start = time.monotonic()
    made = plan(program, sizes)
    text = kernel(made, key)
    digest, path = library(cache, tool, text, lambda: _stages(program, made, tool))
    if (spent := time.monotonic() - start) >= _LONG:
        what = f"{facts(program).name} ({key})"
        _LOG.info("made the kernel of %s in %.1f s; it is kept in %s", what, spent, cache.folder)
    note = {
        "kernel": digest,
        "carry": made.carry or key.carry,
        "several": made.carry,
        "plain": made.plain,
        "wide": is_wide(made, key),
        "natural": made.relation.spec.score != Score(),
        "longest": longest([made]),
    }
    cache.set_note(note_key, note)
    return note, path


def loaded(path: Path) -> ctypes.CDLL:
    """A shared library, loaded. Raises CacheError where its folder does not allow that."""
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise CacheError(
            f"a compiled kernel cannot be loaded: {error}. If its folder is on a file system that allows no programs "
            "(noexec), set ATTNSPEC_CACHE to one that does"
        ) from None


def library(cache: Cache, tool: Compiler, text: str, stages: Callable[[], dict[str, str]] = dict) -> tuple[str, Path]:
    """The digest of a translation unit and its shared library, found in the cache or compiled.

    ``stages`` gives the texts that a new entry keeps beside it.
    """
    digest = sha256(f"{text}\0{tool.identity}".encode()).hexdigest()
    path = cache.library(digest) or cache.add(digest, lambda output: tool.compile(text, output), stages())
    return digest, path


def _stages(program: Program, made: Plan, tool: Compiler) -> dict[str, str]:
    """The earlier stages of a kernel as text, to read beside it."""
    return {
        "source.attn": program.text,
        "params.json": program.params,
        "spec.txt": f"{made.relation.spec}\n",
        "relation.txt": f"{made.relation}\n",
        "plan.txt": f"{made}\n",
        "compiler.json": json.dumps({"command": tool.command, "flags": tool.flags, "libraries": tool.libraries}),
    }
