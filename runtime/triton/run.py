"""Forward and backward of a program by Triton kernels, on tensors that fit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attnspec.codegen.expressions.reads import names
from attnspec.codegen.triton.parameters import argument
from attnspec.codegen.triton.schedule import FEW, LEAST_SHARE
from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.program import Program, facts, needed, spec
from attnspec.runtime.core.request import Extra, check_length, is_wide, scalars_of
from attnspec.runtime.triton import tables as triton_data
from attnspec.runtime.triton import tune as triton_tune
from attnspec.runtime.triton.module import Made, made, plans


def forward(
    program: Program, q: Tensor, k: Tensor, v: Tensor, extra: Extra, scale: float, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`attnspec.runtime.cpp.run.forward`; outputs of branches come whether or not ``keep`` asks for them."""
    own, given = _prepare(program, q, k, v, extra)
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
        out, lse, parts = own.module.forward(q, k, v, scale, given, precision(), _shares(own, q, k))
    return out, lse, parts if keep else q.new_empty(0)


def backward(
    program: Program,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extra: Extra,
    out: Tensor,
    lse: Tensor,
    parts: Tensor,
    dout: Tensor,
    dlse: Tensor | None,
    scale: float,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, list[Tensor | None]]:
    """As :func:`attnspec.runtime.cpp.run.backward`."""
    own, given = _prepare(program, q, k, v, extra)
    keys = [argument(name) for name in names(spec(program))] if extra.inputs else []
    chosen = [key for key, want in zip(keys, wanted, strict=True) if want]
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
        dq, dk, dv, dsink, found = own.module.backward(
            q, k, v, scale, given, out, lse, parts, dout, dlse, chosen, precision()
        )
    return dq, dk, dv, dsink, [found.get(key) for key in keys]


def precision() -> str:
    """How float32 products are computed: exactly, unless ``torch.set_float32_matmul_precision`` allows TF32."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def _shares(own: Made, q: Tensor, k: Tensor) -> int:
    """Into how many parts the keys are cut where there are too few queries to fill the device (decoding)."""
    if not own.module.SHARES or q.shape[2] > FEW or not q.numel():
        return 1
    units = torch.cuda.get_device_properties(q.device).multi_processor_count if q.is_cuda else 1
    programs = q.shape[0] * q.shape[1]
    return max(1, min(2 * units // programs, k.shape[2] // LEAST_SHARE))


def _prepare(program: Program, q: Tensor, k: Tensor, v: Tensor, extra: Extra) -> tuple[Made, triton_data.Given]:
    from attnspec.codegen.triton.module import TritonKey

    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
        schedule = triton_tune.schedule(q, v)
    key = TritonKey(q.shape[3], v.shape[3], is_wide(q, k))
    which = needed(program, q.shape[1], k.shape[1], q.shape[0])
    own = made(program, key, which, schedule)
    check_length(program, own.longest, q, k)
    given = given_of(program, extra, own.wide)
    rest = tuple(name for name in own.given if name not in given)
    if rest:
        end = facts(program).align == "end"
        m = None if extra.m < 0 else extra.m
        sizes = Sizes(k.shape[2], q.shape[2], q.shape[1], k.shape[1], q.shape[0], end, m, scalars_of(program, extra))
        given |= triton_data.cached(program, plans(program, which, schedule), rest, sizes, own.wide, q.device)
    return own, given


def given_of(program: Program, extra: Extra, wide: bool) -> triton_data.Given:
    """What comes with a call, by the names that kernels have for it; integers in the type of positions."""
    kind = torch.int64 if wide else torch.int32
    given: triton_data.Given = {}
    if extra.inputs:
        for name, tensor in zip(names(spec(program)), extra.inputs, strict=True):
            whole = tensor.dtype in (torch.int32, torch.int64)
            given[argument(name)] = (tensor.to(kind) if whole else tensor).contiguous()
    if extra.order is not None:
        given["order"] = extra.order.to(kind).contiguous()
    if extra.sink is not None:
        given["sink"] = extra.sink
    if extra.m >= 0:
        given["m"] = extra.m
    return given
