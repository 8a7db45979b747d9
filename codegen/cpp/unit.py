"""What a kernel is specialised for, and the pieces of translation units. Imports nothing that is slow to load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

LOGS = ("", "xy", "z", "max")
"""Which channels of a kernel of linear attention have logarithms of their own, by ``ATTNSPEC_LOGS``."""
DTYPES = {"float32": 0, "bfloat16": 1, "float16": 2}
FEW = {"float32": 24, "bfloat16": 12, "float16": 24}
"""Up to how many queries of a call the kernel for few of them (``"decode"``) takes less time: measured with AVX-512."""
_HEADER = "#include <cstdint>\n"


@dataclass(frozen=True)
class KernelKey:
    """The direction and types of a kernel.

    ``direction`` is ``"forward"``, ``"decode"`` (forward for few queries: see ``FEW``) or ``"backward"``; ``dtype``
    float32, bfloat16 or float16; ``dim`` and ``dim_v`` the head sizes of query and value; ``wide`` asks for positions
    in 64 bits (beyond ``NARROW_LENGTH``). A kernel of a forward pass turns ``turn`` elements of each query (0: none) by
    its position when it loads it; ``pairs`` is that of ``rotate``. With ``carry`` results are float32 and added to what
    is there already: a plan may ask for that too.
    """

    direction: str
    dtype: str
    dim: int
    dim_v: int
    wide: bool = False
    turn: int = 0
    pairs: bool = False
    carry: bool = False

    def __str__(self) -> str:
        values = "" if self.dim == self.dim_v else f" (values {self.dim_v})"
        return f"{self.direction}, {self.dtype}, head size {self.dim}{values}"


@dataclass(frozen=True)
class LinearKey:
    """The types of a kernel of linear attention, of features x and y and values z: ``sum over j of (x_i . y_j) z_j``.

    i are the queries, and with ``keys`` the keys. ``types`` are the element types of x, y, z, the sum, and of what
    ``maps`` of the sum and ``up`` of x need beside; ``dim`` and ``dim_v`` are the number of features and of values. One
    of ``"xyz"`` as ``one`` says whose last column is ones that no memory holds, as ``up`` which of them is the gradient
    of an output; ``maps`` are the sides (``"q"``, ``"k"``) whose features x, y and z are, and whose vectors the sum is
    the gradient of (``""``: tensors as they are). With ``decay`` weights fade; ``channels`` says if features do so each
    by itself: those that x and y have (``"y"``), or those of z and the sum (``"z"``). With ``logs`` channels weigh
    pairs by logarithms of their own: those that x and y share (``"xy"``), or those of z (``"z"``); ``"max"``: the sum
    is the largest of them. ``units`` says whether x, and y, are made of length one before they are mapped. With
    ``solve`` the sum is over what it is taken from: see ``linear/delta.hpp``. ``wide`` and ``carry`` are as for
    ``KernelKey``.
    """

    keys: bool
    types: tuple[str, ...]
    dim: int
    dim_v: int
    one: str = ""
    up: str = ""
    maps: tuple[str, ...] = ("", "", "", "")
    decay: bool = False
    channels: str = ""
    crossing: bool = False
    logs: str = ""
    units: tuple[bool, bool] = (False, False)
    solve: bool = False
    wide: bool = False
    carry: bool = False

    @property
    def direction(self) -> str:
        """The name of the function in the unit."""
        return "delta" if self.solve else "linear"

    def __str__(self) -> str:
        by, one = "keys" if self.keys else "queries", f", ones in {self.one}" if self.one else ""
        up = f", gradient of an output in {self.up}" if self.up else ""
        sides = zip("xyzo", self.maps, strict=True)
        maps = "".join(f", {name} of {side}" for name, side in sides if side)
        sizes = f"{self.dim} features, {self.dim_v} values"
        fades = ", with decay" * self.decay + " by channel" * bool(self.channels) + " and its gradient" * self.crossing
        fades += f", logarithms of {self.logs}" if self.logs else ""
        what = "correction" if self.solve else "linear"
        units = "".join(f", {name} of length one" for name, unit in zip("xy", self.units, strict=True) if unit)
        return f"{what} by {by}, {', '.join(self.types)}, {sizes}{one}{up}{units}{maps}{fades}"


def define(values: Mapping[str, int | str]) -> str:
    """The beginning of a unit: macros by name."""
    return _HEADER + "".join(f"#define {name} {value}\n" for name, value in values.items())


def boolean(value: bool) -> str:
    """A literal."""
    return "true" if value else "false"


def read(name: str) -> str:
    """The text of ``library/<name>.hpp``."""
    return files("attnspec.codegen.cpp").joinpath("library", f"{name}.hpp").read_text(encoding="utf-8")


def without_plan(dtype: str, *names: str) -> str:
    """A unit of library files that depend on an element type only: the sizes of tiles and heads mean nothing in it."""
    sizes = {
        **dict.fromkeys(("ATTNSPEC_D", "ATTNSPEC_DV", "ATTNSPEC_BM", "ATTNSPEC_BN"), 64),
        "ATTNSPEC_CARRY": 0,
        "ATTNSPEC_TIMES": 0,
    }
    return "\n".join([define({"ATTNSPEC_DTYPE": DTYPES[dtype], **sizes}), *map(read, names)])


def rotate_kernel(dtype: str) -> str:
    """A unit that turns the vectors of tensors of an element type by rotary position embeddings (``attnspec_turn``)."""
    return without_plan(dtype, "vector", "tensor", "turn", "rotate")


def merge_kernel(dtype: str) -> str:
    """A unit that merges outputs of an element type by their log-sum-exps (``attnspec_merge``)."""
    return without_plan(dtype, "vector", "tensor", "parallel", "merge")
