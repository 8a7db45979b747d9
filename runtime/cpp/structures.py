"""The argument of a kernel: tensors, sizes, inputs, tables and lists of positions as C structures."""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from attnspec.relation.sizes import Held
from attnspec.relation.sizes import Sizes as CallSizes
from attnspec.runtime.core.form import Form
from attnspec.runtime.core.program import Program, needed, plan
from attnspec.runtime.core.request import arguments_of
from attnspec.runtime.cpp.packed import Packed

if TYPE_CHECKING:
    from attnspec.codegen.layouts.base import Listing
    from attnspec.codegen.plan.plan import Pass, Plan

MOST_DIMENSIONS = 4


class TileTable(ctypes.Structure):
    """``attnspec::Table`` of the C++ text."""

    _fields_ = [*((name, ctypes.c_void_p) for name in ("start", "fulls", "tiles")), ("first", ctypes.c_int64)]


class List(ctypes.Structure):
    """``attnspec::List``."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("batch_stride", "head_stride", "residue_stride", "begin", "end")),
    ]


class PassData(ctypes.Structure):
    """``attnspec::PassData``."""

    _fields_ = [("rows", ctypes.c_void_p), ("columns", ctypes.c_void_p), ("queries", List), ("keys", List)]


class Input(ctypes.Structure):
    """``attnspec::Input``."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_int64 * MOST_DIMENSIONS),
        ("stride", ctypes.c_int64 * MOST_DIMENSIONS),
    ]


class Gradient(ctypes.Structure):
    """``attnspec::Gradient``."""

    _fields_ = [("data", ctypes.c_void_p), ("stride", ctypes.c_int64 * MOST_DIMENSIONS)]


class Sizes(ctypes.Structure):
    """``attnspec::Sizes``."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n", "n_q", "heads", "kv_heads", "batch", "m")),
        *((name, ctypes.c_int64) for name in ("q_start", "rows", "k_start", "keys")),
        *((name, ctypes.c_int64) for name in ("h_start", "query_heads", "key_heads", "b_start", "entries")),
        *((name, ctypes.c_void_p) for name in ("passes", "inputs", "pages")),
    ]


class Tensor(ctypes.Structure):
    """``attnspec::Tensor``: an address and four strides in elements."""

    _fields_ = [("data", ctypes.c_void_p), ("stride", ctypes.c_int64 * 4)]


class ForwardProblem(ctypes.Structure):
    """``attnspec::ForwardProblem``."""

    _fields_ = [
        ("sizes", Sizes),
        *((name, Tensor) for name in ("q", "k", "v", "out")),
        *((name, ctypes.c_void_p) for name in ("lse", "norm")),
        ("branch", ctypes.c_int64),
        ("scale", ctypes.c_float),
        ("threads", ctypes.c_int32),
        *((name, Tensor) for name in ("cos", "sin")),
    ]


class BackwardProblem(ctypes.Structure):
    """``attnspec::BackwardProblem``."""

    _fields_ = [
        ("sizes", Sizes),
        *((name, Tensor) for name in ("q", "k", "v", "out", "dout", "dq", "dk", "dv")),
        *((name, ctypes.c_void_p) for name in ("lse", "norm", "dlse", "gradients")),
        ("branch", ctypes.c_int64),
        ("scale", ctypes.c_float),
        ("threads", ctypes.c_int32),
    ]


@dataclass(frozen=True)
class Fixed:
    """What a call of given sizes needs beside its tensors; ``keep`` holds the arrays that it points into."""

    passes: ctypes.Array[PassData]
    keep: tuple[Any, ...]


def sizes_of(call: CallSizes) -> Sizes:
    """The sizes of a call, without what it points to."""
    m = call.n if call.m is None else call.m
    return Sizes(call.n, call.n_q, call.heads, call.kv_heads, call.batch, m, *call.held, None, None, None)


_CODES = {ctypes.c_int64: "q", ctypes.c_int32: "i", ctypes.c_float: "f", ctypes.c_void_p: "Q"}


@functools.cache
def packing(structure: type[ctypes.Structure]) -> Callable[..., bytes]:
    """What makes the bytes of a structure from the numbers in it, in their order.

    >>> len(packing(Tensor)(0, 1, 2, 3, 4)) == ctypes.sizeof(Tensor)
    True
    """
    form = struct.Struct(f"={_codes(structure)}")
    assert form.size == ctypes.sizeof(structure)  # nothing between the fields
    return form.pack


def _codes(kind: Any) -> str:
    """The codes of ``struct`` for a type of C."""
    if issubclass(kind, ctypes.Structure):
        return "".join(_codes(field[1]) for field in kind._fields_)
    return _codes(kind._type_) * kind._length_ if issubclass(kind, ctypes.Array) else _CODES[kind]


def passes_of(program: Program, call: CallSizes, wide: bool, order: torch.Tensor | None) -> Fixed:
    """What passes need beside their loops. ``order`` is of the integer type of the kernel."""
    fixed = fixed_of(program, call, wide)
    return fixed if order is None else Fixed(_ordered(program, call, fixed, order), (fixed, order))


def moving_passes(program: Program, call: CallSizes, wide: bool) -> Fixed:
    """The same of a forward pass whose lengths and positions differ from step to step.

    Its lists hold the positions of all such passes up to a bound; which slots of them are its own comes with it.
    """
    held, whole = call.held, (call.heads, call.kv_heads, call.batch)
    high = 1 << max(1 << 11, held.q_start + held.rows, held.k_start + held.keys).bit_length()
    low = -(1 << (-held.q_start).bit_length()) if held.q_start < 0 else 0
    lists, made = _lists(program, *whole, low, high, wide), plan(program, needed(program, *whole))
    passes = type(lists.passes).from_buffer_copy(lists.passes)
    tabled = _tabled(program, replace(call, part=None)) if made.tabled else {}
    for number, (data, item) in enumerate(zip(passes, made.passes, strict=True)):
        if number in tabled:
            data.rows, data.columns = map(ctypes.addressof, tabled[number][:2])
        for side, (listed, of) in enumerate(zip(item.layout.listed, (data.queries, data.keys), strict=True)):
            if listed:
                slots = item.layout.held_slots(side, call)
                of.begin, of.end = slots.start, slots.stop
    return Fixed(passes, (lists, tabled))


class Inputs:
    """The array of what a kernel reads beside q, k and v: inputs, and behind them what follows from real parameters."""

    def __init__(self, program: Program, wide: bool, forms: Sequence[tuple[torch.dtype, Form, Form]]) -> None:
        """``forms`` are types, shapes and strides of the inputs, in the kernel's order.

        A kernel that is not ``wide`` reads of int64 the lower halves, which come first: integers of inputs fit them.
        """
        self._arguments = tuple(arguments_of(program, torch.device("cpu")).values())  # the array points into them
        of_forms = [
            Input(None, _four(shape, 1), _four([s << (dtype == torch.int64 and not wide) for s in strides], 0))
            for dtype, shape, strides in forms
        ]
        of_arguments = [Input(t.data_ptr(), _four(t.shape, 1), _four(t.stride(), 0)) for t in self._arguments]
        self.count = len(forms) + len(self._arguments)
        array, size = (Input * self.count)(*of_forms, *of_arguments), ctypes.sizeof(Input)
        self._packed = Packed(array, [(number * size + Input.data.offset, "Q") for number in range(len(forms))])
        self._bytes = ctypes.c_char * ctypes.sizeof(array)

    def __call__(self, inputs: Sequence[torch.Tensor]) -> Any:
        """The array for inputs of these forms, which must live as long as it is used."""
        return self._bytes.from_buffer_copy(self._packed(*[t.data_ptr() for t in inputs]))


def gradients_of(buffers: Sequence[Sequence[torch.Tensor | None]]) -> Any:
    """For each key head of each batch entry, where the gradients of all inputs go (None: not wanted)."""
    flat = [
        Gradient(None, _four((), 0)) if t is None else Gradient(t.data_ptr(), _four(t.stride(), 0))
        for row in buffers
        for t in row
    ]
    return (Gradient * len(flat))(*flat)


def tensor_of(t: torch.Tensor) -> Tensor:
    """A tensor of four dimensions."""
    return Tensor(t.data_ptr(), (ctypes.c_int64 * 4)(*t.stride()))


def expanded(table: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A table of angles for each row of ``x``: its last dimension lies in one piece, the others may not move."""
    table = table if table.stride(-1) == 1 else table.contiguous()
    return table.expand(*x.shape[:3], table.shape[-1])


def _four(values: Sequence[int], fill: int) -> Any:
    return (ctypes.c_int64 * MOST_DIMENSIONS)(*values, *[fill] * (MOST_DIMENSIONS - len(values)))


@functools.lru_cache(maxsize=32)
def fixed_of(program: Program, sizes: CallSizes, wide: bool) -> Fixed:
    """What passes need beside their loops."""
    made = plan(program, needed(program, sizes.heads, sizes.kv_heads, sizes.batch))
    tabled = _tabled(program, replace(sizes, part=None)) if made.tabled else {}  # all parts read those of the whole
    lists = _listed(made, sizes, wide)
    for number, found in tabled.items():
        lists.passes[number].rows, lists.passes[number].columns = map(ctypes.addressof, found[:2])
    return Fixed(lists.passes, (lists, tabled))


@functools.lru_cache(maxsize=16)
def _lists(program: Program, heads: int, kv_heads: int, batch: int, low: int, high: int, wide: bool) -> Fixed:
    """Passes with the lists of all positions between two, of queries and of keys (which there are none of before 0)."""
    held = Held(low, high - low, 0, high, 0, heads, kv_heads, 0, batch)
    sizes = CallSizes(high, high - low, heads, kv_heads, batch, part=held)
    return _listed(plan(program, needed(program, heads, kv_heads, batch)), sizes, wide)


def _listed(made: Plan, sizes: CallSizes, wide: bool) -> Fixed:
    """Passes with their lists alone."""
    passes, keep = (PassData * len(made.passes))(), list[Any]()
    for data, item in zip(passes, made.passes, strict=True):
        queries, keys = item.layout.lists(sizes, item.tile.rows, item.tile.columns)
        for name, found in (("queries", queries), ("keys", keys)):
            if found is not None:
                setattr(data, name, _list(found, np.dtype(np.int64 if wide else np.int32), keep))
    return Fixed(passes, (keep,))


@functools.lru_cache(maxsize=16)
def _tabled(program: Program, sizes: CallSizes) -> dict[int, tuple[Any, ...]]:
    """Of the passes without loops the tables by row and by column, and what these point into."""
    made = plan(program, needed(program, sizes.heads, sizes.kv_heads, sizes.batch))
    found: dict[int, tuple[Any, ...]] = {}
    for number, item in enumerate(made.passes):
        if item.tabled:
            keep: list[Any] = []
            found[number] = (*(_tables(made, item, sizes, transposed, keep) for transposed in (False, True)), keep)
    return found


def _list(found: Listing, dtype: np.dtype[Any], keep: list[Any]) -> List:
    positions = found.positions.astype(dtype)
    keep.append(positions)
    start = positions.ctypes.data - found.first * positions.itemsize
    return List(start, 0, 0, found.count, found.first, found.first + found.count)


def _tables(made: Plan, item: Pass, sizes: CallSizes, transposed: bool, keep: list[Any]) -> Any:
    """The tables of all heads for a pass without loops."""
    from attnspec.codegen.plan.table import tables  # here: islpy is not loaded for kernels that need no tables

    outer = item.key_tiles(sizes) if transposed else item.query_tiles(sizes)
    found, which = tables(made, item, sizes, transposed)
    distinct = [TileTable(*(a.ctypes.data for a in (t.start, t.fulls, t.tiles)), outer.start) for t in found]
    array = (TileTable * which.size)(*(distinct[i] if i >= 0 else TileTable() for i in which.flat))
    keep += [array, *found]
    return array


def _ordered(program: Program, sizes: CallSizes, fixed: Fixed, order: torch.Tensor) -> Any:
    """The passes of a computed order: ``order`` (batch, heads, rounds * n) holds the position of each slot."""
    made = plan(program, needed(program, sizes.heads, sizes.kv_heads, sizes.batch))
    passes = (PassData * len(fixed.passes))(*fixed.passes)
    for data, item in zip(passes, made.passes, strict=True):
        strides = order.stride(0), order.stride(1)
        slots = item.layout.query_slots(sizes, 0, item.tile.rows)
        data.queries = List(order.data_ptr(), *strides, 0, slots.start, slots.stop)
        data.keys = List(order.data_ptr(), *strides, 0, 0, order.shape[2])
    return passes
