"""Pairs of elements turned by tables of angles, in one pass over the memory: an operator around a C++ routine.

>>> x = torch.tensor([1.0, 0.0, 1.0, 0.0]).view(1, 1, 1, 4)
>>> cos, sin = torch.tensor([[0.0, 0.6]]), torch.tensor([[1.0, 0.8]])
>>> turn(x, cos, sin, True).flatten()
tensor([0.0000, 1.0000, 0.6000, 0.8000])
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attnspec.codegen.cpp.unit import DTYPES, rotate_kernel
from attnspec.runtime.core.direct import direct
from attnspec.runtime.core.form import Form, like
from attnspec.runtime.core.store import Cache
from attnspec.runtime.cpp import structures as problem
from attnspec.runtime.cpp.compiler import compiler
from attnspec.runtime.cpp.load import library, loaded
from attnspec.runtime.cpp.packed import Packed
from attnspec.runtime.cpp.threads import threads


class _Problem(ctypes.Structure):
    """``attnspec::TurnProblem`` of the C++ text."""

    _fields_ = [
        *((name, problem.Tensor) for name in ("x", "cos", "sin")),
        ("out", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("batch", "heads", "n", "dim", "start", "dims")),
        *((name, ctypes.c_int32) for name in ("pairs", "threads")),
    ]


_LIBRARY = torch.library.Library("attnspec", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(  # type: ignore[no-untyped-call]
    "turn(Tensor x, Tensor cos, Tensor sin, bool pairs, int start=0) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,)
)
_DTYPES = frozenset(getattr(torch, name) for name in DTYPES)
_operator = torch.ops.attnspec.turn.default


def turns(x: Tensor) -> bool:
    """Whether :func:`turn` takes a tensor: it has an element type of the kernels, and is on the CPU."""
    return x.is_cpu and x.dtype in _DTYPES


def turn(x: Tensor, cos: Tensor, sin: Tensor, pairs: bool, start: int = 0) -> Tensor:
    """The pairs (a, b) of the rows of ``x`` as (a cos - b sin, b cos + a sin), and what is around them unchanged.

    x is (batch, heads, n, dim) of any strides, float32, bfloat16 or float16, on the CPU; the tables are float32 and
    expand to (batch, heads, n, dims / 2), start + dims <= dim. ``pairs`` says that elements 2c and 2c + 1, counted from
    ``start``, are a pair, else c and c + dims / 2. The result is contiguous, of x's dtype, rounded once, and
    differentiable in x any number of times; not in the tables.

    The routine is compiled at the first call for a dtype and kept in the kernel cache. Raises CompilerError without a
    C++ compiler.
    """
    if not direct(x, cos, sin):
        return _operator(x, cos, sin, pairs, start)  # type: ignore[no-any-return]
    return turn_at_once(x, cos, sin, pairs, start)


def turn_at_once(x: Tensor, cos: Tensor, sin: Tensor, pairs: bool, start: int = 0) -> Tensor:
    """The same past the dispatcher, for tensors that :func:`attnspec.runtime.core.direct.direct` lets pass."""
    if x.requires_grad and torch.is_grad_enabled():
        return _Turn.apply(x, cos, sin, pairs, start)  # type: ignore[no-any-return, no-untyped-call]
    return _turn(x, cos, sin, pairs, start)


def _turn(x: Tensor, cos: Tensor, sin: Tensor, pairs: bool, start: int = 0) -> Tensor:
    out = x.new_empty(*x.shape)
    if not x.numel():
        return out
    cos, sin = (t if t.stride(-1) == 1 else t.contiguous() for t in (cos, sin))
    forms = x.shape, x.stride(), cos.shape, cos.stride(), sin.shape, sin.stride()
    argument = _argument(*forms, start, pairs)(x.data_ptr(), cos.data_ptr(), sin.data_ptr(), out.data_ptr(), threads())
    _function(x.dtype)(argument)
    return out


@functools.lru_cache(maxsize=256)
def _argument(of_x: Form, x: Form, of_cos: Form, cos: Form, of_sin: Form, sin: Form, start: int, pairs: bool) -> Packed:
    """The argument of the routine, of shapes and strides; the numbers of threads and addresses come with a call."""
    tables = [problem.expanded(like(*table), like(of_x, x)) for table in ((of_cos, cos), (of_sin, sin))]
    tensors = map(problem.tensor_of, (like(of_x, x), *tables))
    whole = _Problem(*tensors, 0, *of_x, start, 2 * of_cos[-1], pairs, 0)
    names = ("x", "cos", "sin", "out", "threads")
    return Packed(whole, [(getattr(_Problem, name).offset, "i" if name == "threads" else "Q") for name in names])


@functools.cache
def _function(dtype: torch.dtype) -> Callable[[Any], None]:
    _, path = library(Cache.default(), compiler(), rotate_kernel(str(dtype).removeprefix("torch.")))
    function = loaded(path).attnspec_turn
    function.restype, function.argtypes = None, [ctypes.c_void_p]
    return function


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, cos, sin, ctx.pairs, ctx.start = inputs
    ctx.save_for_backward(cos, sin)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """The same turned back."""
    cos, sin = ctx.saved_tensors
    return turn(gradient, cos, -sin, ctx.pairs, ctx.start), None, None, None, None


class _Turn(torch.autograd.Function):
    """The same past the dispatcher."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, pairs: bool, start: int) -> Tensor:
        _save(ctx, (x, cos, sin, pairs, start), x)
        return _turn(x, cos, sin, pairs, start)

    backward = staticmethod(_gradients)


_LIBRARY.impl("turn", _turn, "CPU")  # type: ignore[no-untyped-call]
torch.library.register_fake("attnspec::turn", lambda x, cos, sin, pairs, start=0: x.new_empty(x.shape), lib=_LIBRARY)
torch.library.register_autograd("attnspec::turn", _gradients, setup_context=_save, lib=_LIBRARY)
