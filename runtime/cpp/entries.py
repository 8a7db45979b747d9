"""What differs from batch entry to batch entry where keys lie in pages, as C structures."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from attnspec.codegen.expressions.reads import names
from attnspec.relation.sizes import Sizes as CallSizes
from attnspec.runtime.core.pages import Pages as Given
from attnspec.runtime.core.pages import shapes_at, sizes_at
from attnspec.runtime.core.program import Program, facts, spec
from attnspec.runtime.cpp import structures as problem
from attnspec.runtime.cpp.load import Native

_INPUT = ctypes.sizeof(problem.Input) // 8
"""Numbers of 64 bits in a structure; the address comes first, then the sizes."""


class Entry(ctypes.Structure):
    """``attnspec::Entry`` of the C++ text."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n", "q_start", "m")),
        *((name, ctypes.c_void_p) for name in ("passes", "inputs")),
    ]


class Pages(ctypes.Structure):
    """``attnspec::Pages``."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("table", "entries")),
        *((name, ctypes.c_int64) for name in ("stride", "size")),
    ]


def pages_of(
    program: Program, made: Native, sizes: CallSizes, pages: Given, size: int, tensors: Sequence[Tensor], inputs: Any
) -> tuple[Pages, Any]:
    """Where keys lie, in pages of ``size`` keys; ``sizes`` are those of the longest entry. And what this points into.

    ``tensors`` are the inputs of the kernel, in its order, and ``inputs`` the array of them, or None.
    """
    keep: list[Any] = [pages, tensors, inputs]
    entries = np.zeros((len(pages.lengths), 5), dtype=np.int64)
    n = np.array(pages.lengths, dtype=np.int64)
    entries[:, 0] = entries[:, 2] = n
    entries[:, 1] = n - sizes.n_q if sizes.aligned_end else 0
    entries[:, 4] = 0 if inputs is None else ctypes.addressof(inputs)
    if not (made.plain and facts(program).bare):
        pattern = spec(program)
        found = dict(zip(names(pattern), tensors, strict=True))
        own = {length: sizes_at(pattern, sizes, length) for length in pages.lengths}
        if pattern.axes:
            entries[:, 2] = [own[length].m or 0 for length in pages.lengths]
        if not made.plain:
            fixed = {length: problem.moving_passes(program, at, made.wide) for length, at in own.items()}
            entries[:, 3] = [ctypes.addressof(fixed[length].passes) for length in pages.lengths]
            keep.append(fixed)
        if shapes_at(pattern, sizes, found):
            entries[:, 4] = _inputs(inputs, program, own, pages, found, keep)
    return Pages(pages.table.data_ptr(), entries.ctypes.data, pages.table.stride(0), size), [entries, *keep]


def _inputs(
    array: Any,
    program: Program,
    own: Mapping[int, CallSizes],
    pages: Given,
    inputs: Mapping[str, Tensor],
    keep: list[Any],
) -> NDArray[np.int64]:
    """The addresses of the inputs of each entry: those of the call, as far as its own length makes them."""
    shared = np.frombuffer(array, dtype=np.int64).reshape(-1, _INPUT)
    arrays = np.tile(shared, (len(pages.lengths), 1, 1))
    shapes = {length: shapes_at(spec(program), sizes, inputs) for length, sizes in own.items()}
    for own_array, length in zip(arrays, pages.lengths, strict=True):
        for place, name in enumerate(inputs):
            for axis, size in enumerate(shapes[length].get(name, ())):
                if size is not None:
                    own_array[place, 1 + axis] = max(0, size)
    keep.append(arrays)
    return arrays.ctypes.data + np.arange(len(arrays)) * arrays.strides[0]
