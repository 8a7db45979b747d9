"""Small C++ units of generated expressions: compiled, and called with the inputs of :mod:`tests.support.real_cases`."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnspec.codegen.cpp import scalars as cxx
from attnspec.runtime.cpp.compiler import compiler
from attnspec.runtime.cpp.structures import Gradient, Input, Sizes
from tests.support.real_cases import FLOATS, INTEGERS, NAMES, SIZES

_DEFINES = {"DTYPE": 0, "D": 16, "DV": 16, "BM": 16, "BN": 16, "CARRY": 0}
_NUMBER = itertools.count()


def _file(name: str) -> str:
    return files("attnspec.codegen.cpp").joinpath("library", f"{name}.hpp").read_text(encoding="utf-8")


def build(folder: Path, parts: Sequence[str], wide: bool = False) -> ctypes.CDLL:
    defines = "".join(f"#define ATTNSPEC_{name} {value}\n" for name, value in _DEFINES.items())
    if wide:
        defines += "#define ATTNSPEC_POS int64_t\n"
    library = [_file("vector"), _file("tensor")]
    helpers = f"namespace attnspec {{\n{cxx.HELPERS}}}\n"
    text = "\n".join([defines, *library, helpers, _file("input"), _file("real"), *parts])
    output = folder / f"unit{next(_NUMBER)}.so"
    compiler().compile(text, output)
    return ctypes.CDLL(str(output))


def _apart(array: NDArray[Any], fill: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """An array's values as a view with odd strides into a larger one whose other entries are ``fill``; and that one."""
    whole = np.full([3 * size + 4 for size in array.shape] or [1], fill).astype(array.dtype)
    inner = whole[tuple(slice(2, 2 + 3 * size, 3) for size in array.shape)] if array.shape else whole[0:1].reshape(())
    inner[...] = array
    return inner, whole


def _dims(array: NDArray[Any]) -> tuple[Any, Any, Any]:
    """Where an array begins (null where it is empty), its sizes and its strides in elements."""
    padding = 4 - array.ndim
    strides = [stride // array.itemsize for stride in array.strides]
    return (
        array.ctypes.data if array.size else None,
        (ctypes.c_int64 * 4)(*array.shape, *[1] * padding),
        (ctypes.c_int64 * 4)(*strides, *[0] * padding),
    )


@dataclass
class Call:
    """The sizes and inputs of a call in C, and the arrays that keep them alive."""

    kind: type
    arrays: list[NDArray[Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        inputs = []
        for array in (*FLOATS.values(), *INTEGERS.values()):
            typed = array if array.dtype == np.float32 else array.astype(np.uint8 if array.dtype == bool else self.kind)
            inner, whole = _apart(typed, np.nan if typed.dtype == np.float32 else 1)
            self.arrays.append(whole)
            inputs.append(Input(*_dims(inner)))
        self.inputs = (Input * len(inputs))(*inputs)
        self.sizes = Sizes(**SIZES, inputs=ctypes.addressof(self.inputs))

    def gradients(self) -> tuple[Any, list[tuple[NDArray[Any], NDArray[Any]]]]:
        """Where gradients go, for C; and for each float input that array, as a view and with all around it."""
        pairs = [_apart(np.zeros_like(array), np.nan) for array in FLOATS.values()]
        of = []
        for inner, _ in pairs:
            data, _, stride = _dims(inner)
            of.append(Gradient(data, stride))
        return (Gradient * len(NAMES))(*of), pairs


def aligned(values: Any, dtype: type = np.float32) -> NDArray[Any]:
    count = len(values)
    buffer = np.empty(count * 4 + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    array = buffer[start : start + 4 * count].view(dtype)
    array[:] = values
    return array
