"""One sweep of linear attention on tensors that fit: ``sum over j of (x_i . y_j) z_j`` over the pairs of a pattern.

The output is such a sum, and so is each gradient, with the tensors exchanged, over the pattern or its transpose.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from attnspec.codegen.cpp.unit import LinearKey
from attnspec.runtime.core.form import Form, Room, empty, like, room
from attnspec.runtime.core.request import EMPTY, Call
from attnspec.runtime.cpp import prepared
from attnspec.runtime.cpp import structures as problem

TENSORS = ("x", "y", "z", "out", "source", "result", "here", "there", "steps")
ARRAYS = ("total", "dtotal", "extra", "decay_q", "decay_k", "step_sums", "crossing", "state_in", "state_out")
_BLOCK = 16
"""Positions for which a kernel keeps the sums of all steps before: BLOCK of steps.hpp."""


class LinearProblem(ctypes.Structure):
    """``attnspec::LinearProblem`` of the C++ text."""

    _fields_ = [
        ("sizes", problem.Sizes),
        *((name, problem.Tensor) for name in TENSORS),
        *((name, ctypes.c_void_p) for name in ARRAYS),
        *((name, ctypes.c_int64) for name in ("step_count", "at_q", "at_k")),
        ("scale", ctypes.c_float),
        *((name, ctypes.c_int32) for name in ("threads", "divide")),
    ]


@dataclass(frozen=True)
class Sweep:
    """Which sum: i are the queries, or with ``keys`` the keys. The rest is as for ``LinearKey``.

    ``divide``: the output is divided by the sum of weights, which z then has ones for, where that is not zero; or it
    was, and the gradient ``up`` is to be.
    """

    keys: bool = False
    one: str = ""
    up: str = ""
    divide: bool = False
    maps: tuple[str, str, str, str] = ("", "", "", "")
    decay: bool = False
    channels: str = ""
    crossing: bool = False
    logs: str = ""
    units: tuple[bool, bool] = (False, False)


class Beside(NamedTuple):
    """What a sweep reads beside x, y and z, and writes beside the sum; empty where it does not.

    ``source`` are the vectors whose gradient the sum becomes, ``result`` the output whose gradient is x, of which
    ``total`` and ``extra`` (batch, heads, n_q) are the totals and what is worked out for them, ``dtotal`` their own
    gradients; all three are contiguous and float32. ``decay_q`` (batch, heads, n_q) and ``decay_k`` (batch, heads, n)
    are the sums of the logarithms of steps up to each position, float64; to ``crossing``, of one of these shapes,
    float32, is added what each position has in the gradients of steps. Where features decay each by itself ``steps``
    (batch, heads, positions, features) are the logarithms, float32, the first query and key at positions ``at``, and
    ``crossing`` has one dimension more. ``here`` and ``there`` are the logarithms of channels, by which the channels of
    a pair weigh exp of their sum, of x and of y or z, float32. ``state_in`` and ``state_out``, (batch, kv_heads,
    features, values), float32 and contiguous, are the sum ``y_j z_j^T`` of what was before, which each x sees, and
    where that of all is put; for patterns of one pass without residues, and without decay.
    """

    source: Tensor = EMPTY
    result: Tensor = EMPTY
    total: Tensor = EMPTY
    dtotal: Tensor = EMPTY
    extra: Tensor = EMPTY
    decay_q: Tensor = EMPTY
    decay_k: Tensor = EMPTY
    crossing: Tensor = EMPTY
    here: Tensor = EMPTY
    there: Tensor = EMPTY
    steps: Tensor = EMPTY
    at: tuple[int, int] = (0, 0)
    state_in: Tensor = EMPTY
    state_out: Tensor = EMPTY


def sweep(
    call: Call,
    of: Sweep,
    x: Tensor,
    y: Tensor,
    z: Tensor,
    dtype: torch.dtype,
    beside: Beside | None = None,
    totals: bool = True,
) -> tuple[Tensor, Tensor]:
    """The sum, of a dtype, and the sums of weights (batch, heads, n_q) float32 where z has ones, else an empty tensor.

    Without ``totals`` the sums of weights stay in registers where one pass has all of a row.

    x is (batch, heads, n_q, features), y (batch, kv_heads, n, features), z (batch, kv_heads, n, values), and the other
    way round by keys: gradients are summed over the heads that share them. ``call`` says what else the pattern reads,
    with any tensors of its sizes for q and k.
    """
    beside = beside or Beside()
    tensors = x, y, z, beside.source, beside.result, beside.here, beside.there, beside.steps
    made = ready(call.encoded, of, dtype, beside.at, *map(typed, tensors))
    total = beside.total
    if of.one == "z":
        total = torch.zeros(x.shape[:3]) if made.carry else torch.empty(x.shape[:3]) if totals else EMPTY
    sums = torch.empty(_room_for_sums(beside.steps), dtype=torch.float64) if of.channels else EMPTY
    states = beside.state_in, beside.state_out
    arrays = total, beside.dtotal, beside.extra, beside.decay_q, beside.decay_k, sums, beside.crossing, *states
    out = made.run(call, tensors, [t.data_ptr() for t in arrays])
    if made.carry and of.divide and of.one == "z":
        out *= torch.where(total == 0, 0.0, 1 / total)[..., None]
    return out.to(dtype), total if of.one == "z" else EMPTY


def _room_for_sums(steps: Tensor) -> int:
    """Of all steps before each block of positions, for kernels that pad features to whole vectors."""
    batch, heads, positions, features = steps.shape
    return batch * heads * -(-positions // _BLOCK) * -(-features // 16) * 16


Typed = tuple[torch.dtype, Form, Form]
"""The element type, shape and strides of a tensor."""


def typed(t: Tensor) -> Typed:
    """Those of a tensor; of one that is not there, nothing."""
    return (t.dtype, t.shape, t.stride()) if t.dim() == 4 else NOTHING


NOTHING: Typed = (EMPTY.dtype, (0, 0, 0, 0), (0, 0, 0, 0))


@dataclass(frozen=True, eq=False)
class Ready:
    """A sweep for tensors of one form. ``carry``: it adds to its output, float32, which then begins with ``begin``."""

    kernel: prepared.Prepared
    out: Room
    carry: bool
    begin: float

    def run(self, call: Call, tensors: Sequence[Tensor], arrays: Sequence[int]) -> Tensor:
        """The output, of tensors in the order of TENSORS, but for itself, and the addresses of ARRAYS."""
        x, y, z, *rest = [t.data_ptr() for t in tensors]
        out = empty(*self.out)
        if self.carry:
            out.fill_(self.begin)
        self.kernel.run(call, [x, y, z, out.data_ptr(), *rest, *arrays])
        return out


@functools.lru_cache(maxsize=512)
def ready(program: str, of: Sweep, dtype: torch.dtype, at: tuple[int, int], *forms: Typed) -> Ready:
    """A sweep for tensors of these forms, as ``TENSORS`` has them but for the output, which is of a dtype."""
    given = [like(shape, strides, kind) for kind, shape, strides in forms]
    (outer, inner, values, *others), steps = given, given[-1]
    q, k = (inner, outer) if of.keys else (outer, inner)
    call = Call(q, k, values, (), None, None, 0.0, program)
    kinds = [kind for kind, _, _ in forms]
    key = LinearKey(
        of.keys,
        tuple([str(kind).removeprefix("torch.") for kind in (*kinds[:3], dtype, *kinds[3:5])]),
        dim=outer.shape[3] + ("x" in (of.one, of.up)),
        dim_v=values.shape[3] + (of.one == "z"),
        one=of.one,
        up=of.up,
        maps=of.maps,
        decay=of.decay,
        channels=of.channels,
        crossing=of.crossing,
        logs=of.logs,
        units=of.units,
        wide=call.wide,
        carry=of.keys and q.shape[1] != k.shape[1],
    )
    kernel = prepared.native_of(call, key)
    made = room((*outer.shape[:3], values.shape[3]), torch.float32 if kernel.carry else dtype)
    tensors = map(problem.tensor_of, (outer, inner, values, like(*made[:2]), *others))
    # The output is divided here only if one pass sees all of a row.
    divide = of.divide and not (kernel.carry and of.one == "z")
    whole = LinearProblem(
        problem.sizes_of(call.sizes), *tensors, *[0] * len(ARRAYS), steps.shape[2], *at, 0.0, 0, int(divide)
    )
    names = [*TENSORS, *ARRAYS, "scale", "threads"]
    argument = prepared.packed(whole, names)
    own = prepared.Prepared(kernel, call.program, call.sizes, prepared.reads(call.program), 0, (), argument)
    return Ready(own, made, kernel.carry, -math.inf if of.logs == "max" else 0.0)
