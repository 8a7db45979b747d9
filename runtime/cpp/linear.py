"""One sweep of linear attention on tensors that fit: ``sum over j of (x_i . y_j) z_j`` over the pairs of a pattern.

The output is such a sum, and so is each gradient, with the tensors exchanged, over the pattern or its transpose.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from attnspec.codegen.cpp.unit import LinearKey
from attnspec.runtime.core.form import Form, like, room
from attnspec.runtime.core.request import EMPTY, Call
from attnspec.runtime.cpp import prepared
from attnspec.runtime.cpp import structures as problem


class LinearProblem(ctypes.Structure):
    """``attnspec::LinearProblem`` of the C++ text."""

    _fields_ = [
        ("sizes", problem.Sizes),
        *((name, problem.Tensor) for name in ("x", "y", "z", "out")),
        ("total", ctypes.c_void_p),
        ("scale", ctypes.c_float),
        *((name, ctypes.c_int32) for name in ("threads", "divide")),
    ]


@dataclass(frozen=True)
class Sweep:
    """Which sum: i are the queries, or with ``keys`` the keys; the last column of ``one`` (of x, y, z) is all ones.

    ``divide``: the output is divided by the sum of weights, which z then has ones for, where that is not zero.
    """

    keys: bool = False
    one: str = ""
    divide: bool = False


def sweep(call: Call, of: Sweep, x: Tensor, y: Tensor, z: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The sum, of a dtype, and the sums of weights (batch, heads, n_q) float32 where z has ones, else an empty tensor.

    x is (batch, heads, n_q, features), y (batch, kv_heads, n, features), z (batch, kv_heads, n, values), and the other
    way round by keys: gradients are summed over the heads that share them. ``call`` says what else the pattern reads,
    with any tensors of its sizes for q and k.
    """
    made = _prepared(call.encoded, of, dtype, *((t.dtype, t.shape, t.stride()) for t in (x, y, z)))
    carry, shape = made.kernel.carry, (*x.shape[:3], z.shape[3])
    total = EMPTY
    if carry:
        out = torch.zeros(shape)
        total = torch.zeros(shape[:3]) if of.one == "z" else EMPTY
    else:
        out = torch.empty(shape, dtype=dtype)
        total = torch.empty(shape[:3]) if of.one == "z" else EMPTY
    made.run(call, [t.data_ptr() for t in (x, y, z, out, total)])
    if carry and of.divide:
        out *= torch.where(total == 0, 0.0, 1 / total)[..., None]
    return out.to(dtype), total


_Typed = tuple[torch.dtype, Form, Form]


@functools.lru_cache(maxsize=512)
def _prepared(program: str, of: Sweep, dtype: torch.dtype, x: _Typed, y: _Typed, z: _Typed) -> prepared.Prepared:
    outer, inner, values = (like(shape, strides, kind) for kind, shape, strides in (x, y, z))
    q, k = (inner, outer) if of.keys else (outer, inner)
    call = Call(q, k, values, (), None, None, 0.0, program)
    key = LinearKey(
        of.keys,
        tuple([str(kind).removeprefix("torch.") for kind in (x[0], y[0], z[0], dtype)]),
        dim=outer.shape[3] + (of.one == "x"),
        dim_v=values.shape[3] + (of.one == "z"),
        one=of.one,
        wide=call.wide,
        carry=of.keys and q.shape[1] != k.shape[1],
    )
    kernel = prepared.native_of(call, key)
    out = like(*room((*outer.shape[:3], values.shape[3]))[:2])
    tensors = map(problem.tensor_of, (outer, inner, values, out))
    # The output is divided here only if one pass sees all of a row.
    whole = LinearProblem(problem.sizes_of(call.sizes), *tensors, 0, 0.0, 0, int(of.divide and not kernel.carry))
    names = ["x", "y", "z", "out", "total", "scale", "threads"]
    argument = prepared.packed(whole, names)
    return prepared.Prepared(kernel, call.program, call.sizes, prepared.reads(call.program), 0, (), argument)
