"""The triangular systems of the delta rule, and their transposes, solved on tensors that fit."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnspec.codegen.cpp.unit import LinearKey
from attnspec.runtime.core.form import Form, like, room
from attnspec.runtime.core.request import Call
from attnspec.runtime.cpp import prepared
from attnspec.runtime.cpp import structures as problem
from attnspec.runtime.cpp.linear import ARRAYS, TENSORS, LinearProblem


class DeltaProblem(LinearProblem):
    """``attnspec::DeltaProblem`` of the C++ text."""

    _fields_: ClassVar[Any] = [("write", ctypes.c_void_p), ("read", ctypes.c_void_p)]


def solved(
    call: Call,
    keys: bool,
    of_k: str,
    unit: bool,
    b: Tensor,
    v: Tensor,
    write: Tensor | None,
    read: Tensor,
    decay: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """``c`` with ``c_i = write_i v_i - read_i sum over j of (b_i . b_j) D_ij c_j``, and an empty tensor.

    With ``keys`` what solves the transposed system, ``u_j = write_j v_j - sum over i of (b_i . b_j) D_ij read_i u_i``:
    ``read u`` and ``u``. All are float32. b is (batch, heads, n, features), or the vectors that ``of_k`` (``"k"``) maps
    to it after they are made of length one (``unit``), v (batch, heads, n, values), write (None: ones) and read (batch,
    heads, n), contiguous and float32; decay, of that shape, are sums of the logarithms of steps, float64. ``call`` says
    what else the pattern reads, of which all keys come before their queries.
    """
    made = _prepared(call.encoded, keys, of_k, unit, decay is not None, _typed(b), _typed(v))
    z, out = torch.empty(v.shape), torch.empty(v.shape if keys else 0)
    given = {"x": b, "y": b, "z": z, "out": out, "source": v, "decay_q": decay, "decay_k": decay}
    factors = (0 if write is None else write.data_ptr(), read.data_ptr())
    made.run(call._replace(scale=-1.0), [_address(given.get(name)) for name in (*TENSORS, *ARRAYS)], factors)
    return z, out


def _address(t: Tensor | None) -> int:
    return 0 if t is None else t.data_ptr()


_Typed = tuple[torch.dtype, Form, Form]


def _typed(t: Tensor) -> _Typed:
    return t.dtype, t.shape, t.stride()


@functools.lru_cache(maxsize=256)
def _prepared(program: str, keys: bool, of_k: str, unit: bool, decay: bool, *forms: _Typed) -> prepared.Prepared:
    b, v = (like(shape, strides, kind) for kind, shape, strides in forms)
    call = Call(b, b, v, (), None, None, -1.0, program)
    types = [str(t).removeprefix("torch.") for t in (b.dtype, b.dtype, *[torch.float32] * 2, v.dtype, torch.float32)]
    maps = (of_k, of_k, "", "")
    key = LinearKey(keys, tuple(types), b.shape[3], v.shape[3], maps=maps, decay=decay, solve=True, wide=call.wide)
    key = replace(key, units=(unit, unit))
    kernel, made = prepared.native_of(call, key), like(*room(v.shape)[:2])
    whole = DeltaProblem(problem.sizes_of(call.sizes))
    for name, t in (("x", b), ("y", b), ("z", made), ("out", made), ("source", v)):
        setattr(whole, name, problem.tensor_of(t))
    argument = prepared.packed(whole, [*TENSORS, *ARRAYS, "scale", "threads", "write", "read"])
    return prepared.Prepared(kernel, call.program, call.sizes, prepared.reads(call.program), 0, (), argument)
