"""The types of the parameters of Triton kernels, for compiling them ahead of time.

>>> from attnspec.check.check import check_text
>>> spec = check_text("attention a { input doc: int[n] sorted  attend doc[q] == doc[k] }")
>>> types = Types(spec, "fp16", wide=False, adds=True, carry=False, dim=64)
>>> [types.of(p) for p in ("Q", "OUT", "DK", "LSE", "in_doc", "size0_in_doc", "k_r", "scale")]
['*fp16', '*fp16', '*fp32', '*fp32', '*i32', 'i32', 'i32', 'fp32']
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from attnspec.codegen.expressions.reads import names
from attnspec.codegen.triton.names import argument, is_data
from attnspec.spec.spec import Spec

DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
"""Element types as Triton calls them."""
_ELEMENTS = frozenset({"Q", "K", "V", "DO"})
_FLOATS = frozenset({"LSE", "BOUND", "DELTA"})
_ALIGNED = re.compile(r"(q|k|v|o|g|dq|dk|dv)_[bhr]|o_s")


@dataclass(frozen=True)
class Types:
    """The types in a module: its element type (Triton's name), whether it is wide, adds and carries, its head size."""

    spec: Spec
    element: str
    wide: bool
    adds: bool
    carry: bool
    dim: int

    def of(self, parameter: str) -> str:
        """The type of a parameter that is not a constant."""
        whole = "*i64" if self.wide else "*i32"
        match parameter:
            case "OUT" | "DQ":
                return "*fp32" if self.carry else f"*{self.element}"
            case "DK" | "DV":
                return "*fp32" if self.adds else f"*{self.element}"
            case "ORDER" | "Q_LIST" | "K_LIST":
                return whole
            case "HEADS":
                return "*i32"
            case "TABLE" | "START" | "MIDDLE" | "END" | "TILES":
                return "*i64"
            case "scale":
                return "fp32"
        if parameter in _ELEMENTS:
            return f"*{self.element}"
        if parameter in _FLOATS or parameter.startswith(("D_", "SUM")):
            return "*fp32"
        if is_data(parameter):
            return self._input(parameter, whole)
        return "i32"

    def aligned(self, parameter: str) -> bool:
        """Whether a parameter is a multiple of 16 (bytes, elements), as it is for tensors that torch makes."""
        if _ALIGNED.fullmatch(parameter):
            return self.dim % 16 == 0
        return self.of(parameter).startswith("*")

    def _input(self, parameter: str, whole: str) -> str:
        kinds = {declared.name: declared.kind for declared in self.spec.inputs}
        for name in names(self.spec):
            if parameter == argument(name):
                kind = "float" if name == "alibi.slope" else kinds.get(name.split(".")[0], "int")
                return {"int": whole, "bool": "*u8", "float": "*fp32"}[kind]
        raise KeyError(parameter)
