"""The types of the parameters of Triton kernels, for compiling them ahead of time.

>>> from attnspec.check.check import check_text
>>> spec = check_text("attention a { input doc: int[n] sorted  attend doc[q] == doc[k] }")
>>> types = Types(spec, "fp16", wide=False, adds=True, carry=False, dim=64)
>>> [types.of(p) for p in ("Q", "OUT", "DK", "LSE", "in_doc", "size0_in_doc", "k_r", "scale")]
['*fp16', '*fp16', '*fp32', '*fp32', '*i32', 'i32', 'i32', 'fp32']
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from attnspec.codegen.expressions.arguments import arguments
from attnspec.codegen.expressions.reads import read_by_kernels
from attnspec.codegen.triton.parameters import NUMBERS, TENSORS, gradient, inputs, sums
from attnspec.spec.spec import Spec

DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
"""Element types as Triton calls them."""


@dataclass(frozen=True)
class Types:
    """The types in a module: its element type (Triton's name), whether it is wide, adds and carries, its head size."""

    spec: Spec
    element: str
    wide: bool
    adds: bool
    carry: bool
    dim: int

    @cached_property
    def _kinds(self) -> Mapping[str, str]:
        """The types of parameters, with what they depend on."""
        arguments_ = {one.name: ("float", len(one.shape)) for one in arguments(self.spec.score).all}
        read = inputs(read_by_kernels(self.spec) | arguments_)
        of_inputs = [one for n, p in enumerate(read) for one in (p, gradient(p.name), sums(n))]
        return {p.name: p.type for p in (*TENSORS, *of_inputs, *NUMBERS)}

    def of(self, parameter: str) -> str:
        """The type of a parameter that is not a constant."""
        kind = self._kinds[parameter]
        return {
            "element": f"*{self.element}",
            "carried": "*fp32" if self.carry else f"*{self.element}",
            "added": "*fp32" if self.adds else f"*{self.element}",
            "whole": "*i64" if self.wide else "*i32",
            "stride": "i32",
            "count": "i32",
        }.get(kind, kind)

    def aligned(self, parameter: str) -> bool:
        """Whether a parameter is a multiple of 16 (bytes, elements), as it is for tensors that torch makes."""
        if self._kinds[parameter] == "stride":
            return self.dim % 16 == 0
        return self.of(parameter).startswith("*")
