"""Forward and backward of a program by Triton kernels, on tensors that fit."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from attnspec.codegen.expressions.reads import names
from attnspec.codegen.triton.parameters import argument
from attnspec.codegen.triton.schedule import FEW, LEAST_SHARE, Few
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.pages import by_length
from attnspec.runtime.core.program import facts, spec
from attnspec.runtime.core.request import Call, Gradients, Result, arguments_of
from attnspec.runtime.triton import tables as triton_data
from attnspec.runtime.triton import tune as triton_tune
from attnspec.runtime.triton.module import Made, made, packed, plans


def forward(call: Call, keep: bool, *, into: tuple[Tensor, Tensor] | None = None) -> Result:
    """See :class:`attnspec.runtime.targets.Target`."""
    q, k, v, few = call.q, call.k, call.v, call.q.shape[2] <= FEW
    # What few queries give is added when the shares of their keys are; that of branches when they are mixed.
    kernels, given = _prepare(call, into is not None and not few and not facts(call.program).separate)
    none = q.new_empty(0)
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
        shares = _shares(kernels, q, k, k.shape[2] if call.pages is None else call.pages.longest)
        run = functools.partial(kernels.module.forward, q, k, v, call.scale, given, precision(), shares)
        if into is not None:
            (out,), lse = kernels.module.rows_of(into[0]), into[1].contiguous()
            _, _, norm, parts = run((out, lse))
            _put(into, (out, lse))
            out, lse = into
        else:
            out, lse, norm, parts = run(kind=q.dtype if call.part is None else torch.float32)
    return Result(out, lse, norm if keep else none.float(), parts if keep else none)


def _put(to: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    """Write back what kernels changed in copies, of tensors in which they cannot walk."""
    for own, new in zip(to, found, strict=True):
        if new is not own:
            own.copy_(new)


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
    own = (call.q, call.k, call.v)
    if into is None and call.part is not None and call.q.dtype != torch.float32:
        into = [torch.zeros(t.shape, dtype=torch.float32, device=t.device) for t in own]
    kernels, given = _prepare(call, into is not None)
    keys = [argument(name) for name in names(spec(call.program))] if call.inputs else []
    chosen = [key for key, want in zip(keys, wanted, strict=True) if want]
    out, lse, norm, parts = result
    sums = None if into is None else kernels.module.rows_of(*into)
    with torch.cuda.device_of(call.q):  # type: ignore[no-untyped-call]
        dq, dk, dv, dsink, dinputs = kernels.module.backward(
            *(*own, call.scale, given, out, lse, norm if norm.numel() else None, parts),
            *(dout, dlse, chosen, precision(), sums),
        )
    if into is not None:
        _put(into, (dq, dk, dv))
        dq, dk, dv = into
    return Gradients(dq, dk, dv, dsink, [dinputs.get(key) for key in keys])


def precision() -> str:
    """How float32 products are computed: exactly, unless ``torch.set_float32_matmul_precision`` allows TF32."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def _shares(kernels: Made, q: Tensor, k: Tensor, keys: int) -> int:
    """Into how many parts the keys are cut where there are too few queries to fill the device (decoding)."""
    if not kernels.module.SHARES or q.shape[2] > FEW or not q.numel():
        return 1
    units = torch.cuda.get_device_properties(q.device).multi_processor_count if q.is_cuda else 1
    programs = q.shape[0] * (k.shape[1] if kernels.module.HEADS > 1 else q.shape[1])
    return max(1, min(2 * units // programs, keys // LEAST_SHARE))


def _prepare(call: Call, carry: bool = False) -> tuple[Made, triton_data.Given]:
    from attnspec.codegen.triton.module import TritonKey

    q, k, v = call.q, call.k, call.v
    group = packed(call.program, q.shape[2], q.shape[1] // max(1, k.shape[1]), q.dtype.itemsize)
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
        schedule = triton_tune.schedule(q, v, group)
    heads = Few.of(q.shape[2], group).heads
    key = TritonKey(q.shape[3], v.shape[3], call.wide, call.part is not None, carry, heads, call.pages is not None)
    kernels = made(call.program, key, call.needed, schedule)
    call.check_length(kernels.longest)
    given = given_of(call, kernels.wide)
    if call.pages is not None:
        lengths = torch.tensor(call.pages.lengths, dtype=torch.int64, device=q.device)
        given["pages"] = (call.pages.table, lengths, call.pages.longest)
    rest = tuple(name for name in kernels.given if name not in given)
    if call.pages is not None:
        _check_paged(call, bool(rest))
    if rest:
        sizes = replace(call.sizes, scalars=call.scalars())
        which = plans(call.program, call.needed, schedule)
        lists = tuple(name for name in rest if triton_data.moves(name)) if call.part is not None else ()
        tables = tuple(name for name in rest if name not in lists)
        for wanted, own in ((lists, sizes), (tables, replace(sizes, part=None))):
            given |= triton_data.cached(call.program, which, wanted, own, kernels.wide, q.device)
    return kernels, given


def _check_paged(call: Call, listed: bool) -> None:
    """Raises CallError where what entries read differs by their lengths."""
    pattern = spec(call.program)
    sized = next((declared.name for declared in pattern.inputs if by_length(declared)), None)
    if pattern.axes:
        what = "has axes"
    elif sized is not None:
        what = f"has an input that is sized by `n` (`{sized}`)"
    elif listed:
        what = "has kernels that read lists of positions or tables of tiles"
    else:
        return
    raise CallError(
        f"{pattern.name}: the pattern {what}, which differ by the lengths of entries: with keys in pages C++ kernels "
        'read them (target="cpp", on the CPU)'
    )


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
