"""Softmaxes over parts of the keys as the softmax over all of them: ``attnspec.merge``."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from attnspec.codegen.cpp.unit import DTYPES, merge_kernel
from attnspec.runtime.core.direct import direct
from attnspec.runtime.core.merge import by_operations, checked
from attnspec.runtime.core.store import Cache
from attnspec.runtime.cpp.compiler import CompilerError, compiler
from attnspec.runtime.cpp.load import library, loaded
from attnspec.runtime.cpp.threads import threads

_DTYPES = frozenset(getattr(torch, name) for name in DTYPES)


class _Problem(ctypes.Structure):
    """``attnspec::MergeProblem`` of the C++ text."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("outs", "lses", "out", "lse")),
        *((name, ctypes.c_int64) for name in ("parts", "rows", "dim")),
        ("threads", ctypes.c_int32),
    ]


def merge(parts: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Attention to all keys, from that to parts of them: pairs of an output and a log-sum-exp, by those of the whole.

    >>> import torch, attnspec
    >>> q, k, v = torch.randn(3, 1, 2, 100, 16).unbind(0)
    >>> near, far = (attnspec.compile(f"attention a {{ attend {where} }}") for where in ("window(8)", "q - k >= 8"))
    >>> out, lse = attnspec.merge([near(q, k, v, return_lse=True), far(q, k, v, return_lse=True)])
    >>> torch.allclose(out, attnspec.compile("causal")(q, k, v), atol=1e-5)
    True

    Each output is (batch, heads, n_q, dim_v), or of any other shape, and its log-sum-exp (natural, float32 or float64)
    of the same without the last dimension, as calls with ``return_lse`` give them; so are the results. Outputs share
    one dtype; sums are those of the log-sum-exp. A key that stands in several parts counts several times.
    Differentiable in outputs and log-sum-exps as often as one likes. A part that sees nothing (minus infinity) has no
    effect, whatever its output holds; where no part sees anything the results are zero and minus infinity. A sink is a
    part too: zeros with its logit.

    On the CPU, where no gradients are wanted and there is a C++ compiler, a routine reads each row that has a weight
    once; everywhere else it is operations of tensors.

    Raises CallError for parts that do not fit each other, and where there are none.
    """
    outs, lses = checked(list(parts))
    grows = torch.is_grad_enabled() and any(t.requires_grad for t in (*outs, *lses))
    if not grows and outs[0].dtype in _DTYPES and lses[0].dtype == torch.float32 and direct(*outs, *lses):
        function = _function(outs[0].dtype)
        if function is not None:
            return _at_once(function, outs, lses)
    return by_operations(outs, lses)


def _at_once(function: Callable[[Any], int], outs: list[Tensor], lses: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The same in one pass over the memory."""
    out, lse = torch.empty_like(outs[0], memory_format=torch.contiguous_format), torch.empty(lses[0].shape)
    outs, lses = [t.contiguous() for t in outs], [t.contiguous() for t in lses]
    of_outs, of_lses = ((ctypes.c_void_p * len(tensors))(*[t.data_ptr() for t in tensors]) for tensors in (outs, lses))
    where = ctypes.addressof(of_outs), ctypes.addressof(of_lses), out.data_ptr(), lse.data_ptr()
    if function(ctypes.byref(_Problem(*where, len(outs), lse.numel(), out.shape[-1], threads()))):
        raise MemoryError("attnspec: not enough memory for the weights of parts")
    return out, lse


@functools.cache
def _function(dtype: torch.dtype) -> Callable[[Any], int] | None:
    """The routine; None without a compiler, which parts of other targets do not need."""
    try:
        tool = compiler()
    except CompilerError:
        return None
    _, path = library(Cache.default(), tool, merge_kernel(str(dtype).removeprefix("torch.")))
    function = loaded(path).attnspec_merge
    function.restype, function.argtypes = ctypes.c_int, [ctypes.c_void_p]
    return function


def mixed(
    parts: Sequence[tuple[Tensor, Tensor]],
    shares: Sequence[Tensor] = (),
    sink: Tensor | None = None,
    detached: bool = False,
) -> tuple[Tensor, Tensor]:
    """The output of a mixture, and its log-sum-exp, from those of its branches, each as :func:`merge` takes them.

    With ``shares`` it is the sum of the outputs times these, (batch, heads, n_q or 1) each, and there is no log-sum-exp
    (NaN). Otherwise branches are mixed by their denominators, of which ``sink``, a logit of every row that broadcasts
    to the log-sum-exps, is one more term; where this is ``detached`` no gradient of the output goes through them.
    """
    outs, lses = zip(*parts, strict=True)
    if shares:
        dtype = lses[0].dtype
        terms = [(share.to(dtype)[..., None], out.to(dtype)) for share, out in zip(shares, outs, strict=True)]
        total = terms[0][0] * terms[0][1]
        for share, out in terms[1:]:
            total = torch.addcmul(total, share, out)
        return total.to(outs[0].dtype), torch.full_like(lses[0], torch.nan)
    terms = list(parts)
    if sink is not None:
        terms.append((torch.zeros_like(outs[0]), sink.to(lses[0].dtype).expand(lses[0].shape)))
    merged, lse = merge(terms)
    if detached:
        merged, _ = merge([(out, lse.detach()) for out, lse in terms])
    return merged, lse
