"""Kernels as functions: built or found in the cache, loaded with ctypes, called with tensors."""

from __future__ import annotations

import ctypes
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import torch

from attnspec.codegen.key import NARROW_LENGTH, KernelKey
from attnspec.runtime.cache import Cache
from attnspec.runtime.compiler import Compiler, compiler
from attnspec.runtime.program import Program, facts, spec
from attnspec.sizes import Sizes as CallSizes

if TYPE_CHECKING:
    from attnspec.codegen.plan import Plan
    from attnspec.codegen.table import Table
    from attnspec.relation import Relation


class TileTable(ctypes.Structure):
    """``attnspec::Table`` of the C++ text."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("start", "fulls", "tiles")),
        ("first", ctypes.c_int64),
    ]


class Sizes(ctypes.Structure):
    """``attnspec::Sizes``."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n", "n_q", "heads", "kv_heads", "batch")),
        ("rows", ctypes.c_void_p),
        ("columns", ctypes.c_void_p),
    ]


class Tensor(ctypes.Structure):
    """``attnspec::Tensor``: an address and four strides in elements."""

    _fields_ = [("data", ctypes.c_void_p), ("stride", ctypes.c_int64 * 4)]


class ForwardProblem(ctypes.Structure):
    """``attnspec::ForwardProblem``."""

    _fields_ = [
        ("sizes", Sizes),
        *((name, Tensor) for name in ("q", "k", "v", "out")),
        ("lse", ctypes.c_void_p),
        ("scale", ctypes.c_float),
        ("threads", ctypes.c_int32),
    ]


class BackwardProblem(ctypes.Structure):
    """``attnspec::BackwardProblem``."""

    _fields_ = [
        ("sizes", Sizes),
        *((name, Tensor) for name in ("q", "k", "v", "out", "dout", "dq", "dk", "dv")),
        ("lse", ctypes.c_void_p),
        ("dlse", ctypes.c_void_p),
        ("scale", ctypes.c_float),
        ("threads", ctypes.c_int32),
    ]


@functools.lru_cache(maxsize=64)
def relation(program: Program, sizes: tuple[tuple[str, int], ...]) -> Relation:
    """The relation of a program; ``sizes`` are those it needs, by name."""
    from attnspec.lower import lower

    return lower(spec(program), **dict(sizes))


@functools.lru_cache(maxsize=64)
def plan(program: Program, sizes: tuple[tuple[str, int], ...]) -> Plan:
    """The plan of a program; ``sizes`` are those it needs, by name."""
    from attnspec.codegen.plan import Tile
    from attnspec.codegen.schedule import TILE
    from attnspec.codegen.tile import tile

    return tile(relation(program, sizes), Tile(*program.tile) if program.tile else TILE)


@dataclass(frozen=True)
class Native:
    """A loaded kernel."""

    function: Callable[[Any], int]
    path: str
    tabled: bool


def native(program: Program, key: KernelKey, heads: int, kv_heads: int, batch: int) -> Native:
    """The kernel of a program for one call's element type and sizes: loaded, found on disk, or compiled."""
    return _native(program, key, _needed(program, heads, kv_heads, batch))


def _needed(program: Program, heads: int, kv_heads: int, batch: int) -> tuple[tuple[str, int], ...]:
    """The sizes that a program's relation depends on, by name."""
    given = {"heads": heads, "kv_heads": kv_heads, "batch": batch}
    return tuple((name, given[name]) for name in facts(program).needs)


@functools.lru_cache(maxsize=512)
def _native(program: Program, key: KernelKey, sizes: tuple[tuple[str, int], ...]) -> Native:
    cache, tool = Cache.default(), compiler()
    note_key = sha256(f"{program.digest}\0{key}\0{sizes}\0{tool.identity}".encode()).hexdigest()
    note = cache.note(note_key)
    path = cache.library(str(note.get("kernel"))) if note else None
    if note is None or path is None:
        from attnspec.codegen.kernel import kernel

        made = plan(program, sizes)
        text = kernel(made, key)
        digest = sha256(f"{text}\0{tool.identity}".encode()).hexdigest()
        path = cache.library(digest) or cache.add(digest, _builder(tool, text), _stages(program, made, tool))
        note = {"kernel": digest, "tabled": made.tabled}
        cache.set_note(note_key, note)
    function = getattr(ctypes.CDLL(str(path)), f"attnspec_{key.direction}")
    function.restype = ctypes.c_int
    function.argtypes = [ctypes.c_void_p]
    return Native(function, str(path), bool(note.get("tabled")))


def _builder(tool: Compiler, text: str) -> Callable[[Any], None]:
    return lambda output: tool.compile(text, output)


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


@dataclass(frozen=True)
class Tables:
    """The tables of one call, by query tile and by key tile, and the arrays that they point into."""

    rows: ctypes.Array[TileTable]
    columns: ctypes.Array[TileTable]
    arrays: tuple[Table, ...]


@functools.lru_cache(maxsize=16)
def tables(program: Program, sizes: CallSizes) -> Tables:
    """The tables of a call whose plan has no loops. Heads that share a set of tiles share a table."""
    from attnspec.codegen.table import table

    made = plan(program, _needed(program, sizes.heads, sizes.kv_heads, sizes.batch))
    known: dict[tuple[int, int, int, bool], Table] = {}
    found: dict[bool, list[TileTable]] = {False: [], True: []}
    for b in range(sizes.batch):
        for h in range(sizes.heads):
            item = made.of_head(h)
            sets = (item.full, item.partial)
            look = h if any(s.depends_on("h") for s in sets) else -1, b if any(s.depends_on("b") for s in sets) else -1
            for transposed, outer in ((False, made.query_tiles(sizes)), (True, made.key_tiles(sizes))):
                which = (made.classes.index(item), *look, transposed)
                if which not in known:
                    known[which] = table(made, sizes, h, b, transposed)
                t = known[which]
                pointers = (a.ctypes.data for a in (t.start, t.fulls, t.tiles))
                found[transposed].append(TileTable(*pointers, outer.start))
    kind = TileTable * (sizes.batch * sizes.heads)
    return Tables(kind(*found[False]), kind(*found[True]), tuple(known.values()))


def _problem_sizes(program: Program, made: Native, q: torch.Tensor, k: torch.Tensor) -> Sizes:
    end = facts(program).align == "end"
    sizes = CallSizes(k.shape[2], q.shape[2], q.shape[1], k.shape[1], q.shape[0], end)
    found = Sizes(sizes.n, sizes.n_q, sizes.heads, sizes.kv_heads, sizes.batch, None, None)
    if made.tabled:
        lists = tables(program, sizes)
        found.rows, found.columns = (ctypes.addressof(t) for t in (lists.rows, lists.columns))
        found.keep = lists  # alive as long as the structure that points into it
    return found


def _tensor(t: torch.Tensor) -> Tensor:
    return Tensor(t.data_ptr(), (ctypes.c_int64 * 4)(*t.stride()))


def _key(direction: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> KernelKey:
    wide = max(q.shape[2], k.shape[2]) > NARROW_LENGTH
    return KernelKey(direction, str(q.dtype).removeprefix("torch."), q.shape[3], v.shape[3], wide)


def _run(made: Native, problem: ctypes.Structure, what: str) -> None:
    if made.function(ctypes.byref(problem)):
        raise MemoryError(f"attnspec: not enough memory for the {what} pass's workspace")


def forward(
    program: Program, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention output, (batch, heads, n_q, dim_v) of q's dtype, and log-sum-exp, (batch, heads, n_q), float32."""
    out = q.new_empty((*q.shape[:3], v.shape[3]))
    lse = q.new_empty(q.shape[:3], dtype=torch.float32)
    made = native(program, _key("forward", q, k, v), q.shape[1], k.shape[1], q.shape[0])
    sizes, tensors = _problem_sizes(program, made, q, k), map(_tensor, (q, k, v, out))
    _run(made, ForwardProblem(sizes, *tensors, lse.data_ptr(), scale, torch.get_num_threads()), "forward")
    return out, lse


def backward(
    program: Program,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    dout: torch.Tensor,
    dlse: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v, contiguous, of the shapes and dtype of these."""
    dq, dk, dv = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (q, k, v))
    made = native(program, _key("backward", q, k, v), q.shape[1], k.shape[1], q.shape[0])
    dlse = None if dlse is None else dlse.to(torch.float32).contiguous()
    lse = lse.contiguous()
    sizes, tensors = _problem_sizes(program, made, q, k), map(_tensor, (q, k, v, out, dout, dq, dk, dv))
    slope = None if dlse is None else dlse.data_ptr()
    threads = torch.get_num_threads()
    _run(made, BackwardProblem(sizes, *tensors, lse.data_ptr(), slope, scale, threads), "backward")
    return dq, dk, dv
