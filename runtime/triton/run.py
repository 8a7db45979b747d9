"""Forward and backward of a program by Triton kernels, on tensors that fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from attnspec.codegen.expressions.reads import names
from attnspec.codegen.triton.parameters import argument
from attnspec.codegen.triton.schedule import FEW, LEAST_SHARE
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.program import facts, spec
from attnspec.runtime.core.request import Call, Gradients, Result, arguments_of
from attnspec.runtime.triton import tables as triton_data
from attnspec.runtime.triton import tune as triton_tune
from attnspec.runtime.triton.module import Made, made, plans


def forward(call: Call, keep: bool, *, into: tuple[Tensor, Tensor] | None = None) -> Result:
    """See :class:`attnspec.runtime.targets.Target`."""
    kernels, given = _prepare(call)
    q, k, v = call.q, call.k, call.v
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
        out, lse, norm, parts = kernels.module.forward(q, k, v, call.scale, given, precision(), _shares(kernels, q, k))
    none = q.new_empty(0)
    return Result(out, lse, norm if keep else none.float(), parts if keep else none)


def backward(
    call: Call,
    result: Result,
    dout: Tensor,
    dlse: Tensor | None,
    wanted: Sequence[bool],
    *,
    into: Sequence[Tensor] | None = None,
) -> Gradients:
    """See :class:`attnspec.runtime.targets.Target`."""
    kernels, given = _prepare(call)
    keys = [argument(name) for name in names(spec(call.program))] if call.inputs else []
    chosen = [key for key, want in zip(keys, wanted, strict=True) if want]
    with torch.cuda.device_of(call.q):  # type: ignore[no-untyped-call]
        dq, dk, dv, dsink, dinputs = kernels.module.backward(
            call.q, call.k, call.v, call.scale, given, *result, dout, dlse, chosen, precision()
        )
    return Gradients(dq, dk, dv, dsink, [dinputs.get(key) for key in keys])


def precision() -> str:
    """How float32 products are computed: exactly, unless ``torch.set_float32_matmul_precision`` allows TF32."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def _shares(kernels: Made, q: Tensor, k: Tensor) -> int:
    """Into how many parts the keys are cut where there are too few queries to fill the device (decoding)."""
    if not kernels.module.SHARES or q.shape[2] > FEW or not q.numel():
        return 1
    units = torch.cuda.get_device_properties(q.device).multi_processor_count if q.is_cuda else 1
    programs = q.shape[0] * q.shape[1]
    return max(1, min(2 * units // programs, k.shape[2] // LEAST_SHARE))


def _prepare(call: Call, carry: bool = False) -> tuple[Made, triton_data.Given]:
    from attnspec.codegen.triton.module import TritonKey

    if call.part is not None:
        raise CallError(f"{facts(call.program).name}: there are no parts on a GPU yet")
    q, v = call.q, call.v
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
        schedule = triton_tune.schedule(q, v)
    key = TritonKey(q.shape[3], v.shape[3], call.wide, call.part is not None, carry)
    kernels = made(call.program, key, call.needed, schedule)
    call.check_length(kernels.longest)
    given = given_of(call, kernels.wide)
    rest = tuple(name for name in kernels.given if name not in given)
    if rest:
        sizes = replace(call.sizes, scalars=call.scalars())
        which = plans(call.program, call.needed, schedule)
        lists = tuple(name for name in rest if triton_data.moves(name)) if call.part is not None else ()
        tables = tuple(name for name in rest if name not in lists)
        for wanted, own in ((lists, sizes), (tables, replace(sizes, part=None))):
            given |= triton_data.cached(call.program, which, wanted, own, kernels.wide, q.device)
    return kernels, given


def given_of(call: Call, wide: bool) -> triton_data.Given:
    """What comes with a call, by the names that kernels have for it; integers in the type of positions."""
    kind = torch.int64 if wide else torch.int32
    given: triton_data.Given = {}
    if call.inputs:
        for name, tensor in zip(names(spec(call.program)), call.inputs, strict=True):
            whole = tensor.dtype in (torch.int32, torch.int64)
            given[argument(name)] = (tensor.to(kind) if whole else tensor).contiguous()
    for name, tensor in arguments_of(call.program, call.q.device).items():
        given[argument(name)] = tensor if tensor.dim() else float(tensor)
    if call.order is not None:
        given["order"] = call.order.to(kind).contiguous()
    if call.sink is not None:
        given["sink"] = call.sink
    if call.part is not None:
        given["part"] = tuple(call.part)
    if (m := call.sizes.m) is not None:
        given["m"] = m
    return given
