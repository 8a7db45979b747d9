"""Pieces of translation units: definitions, and the files of the C++ library. Imports nothing that is slow to load."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

DTYPES = {"float32": 0, "bfloat16": 1, "float16": 2}
_HEADER = "#include <cstdint>\n"


def define(values: Mapping[str, int | str]) -> str:
    """The beginning of a unit: macros by name."""
    return _HEADER + "".join(f"#define {name} {value}\n" for name, value in values.items())


def read(name: str) -> str:
    """The text of ``library/<name>.hpp``."""
    return files("attnspec.codegen.cpp").joinpath("library", f"{name}.hpp").read_text(encoding="utf-8")


def without_plan(dtype: str, *names: str) -> str:
    """A unit of library files that depend on an element type only: the sizes of tiles and heads mean nothing in it."""
    sizes = {**dict.fromkeys(("ATTNSPEC_D", "ATTNSPEC_DV", "ATTNSPEC_BM", "ATTNSPEC_BN"), 64), "ATTNSPEC_CARRY": 0}
    return "\n".join([define({"ATTNSPEC_DTYPE": DTYPES[dtype], **sizes}), *map(read, names)])


def rotate_kernel(dtype: str) -> str:
    """A unit that turns the vectors of tensors of an element type by rotary position embeddings (``attnspec_turn``)."""
    return without_plan(dtype, "vector", "tensor", "turn", "rotate")
