"""Forward and backward of a program on tensors that fit: allocation, the kernel, and what is left to do around it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from attnspec.codegen.cpp.unit import KernelKey
from attnspec.runtime.core.norm import begin, by_row, merged
from attnspec.runtime.core.program import facts, spec
from attnspec.runtime.core.request import Call, Gradients, Result, Turn
from attnspec.runtime.cpp import structures as problem
from attnspec.runtime.cpp.entries import add_pages
from attnspec.runtime.cpp.load import Native, native
from attnspec.runtime.cpp.threads import threads
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.real import RealRead


def forward(call: Call, keep: bool, turn: Turn | None = None, into: tuple[Tensor, Tensor] | None = None) -> Result:
    """See :class:`attnspec.runtime.targets.Target`. ``turn``: how the kernel is to turn queries, if it is to."""
    q, k, v, sink = call.q, call.k, call.v, call.sink
    key = replace(_key("forward", call), carry=into is not None or _sums(call))
    if turn is not None:
        key = replace(key, turn=2 * turn.cos.shape[-1], pairs=turn.pairs)
    kernel = native(call.program, key, call.needed)
    call.check_length(kernel.longest)
    branches = facts(call.program).separate if keep else 0
    shape, dtype = (*q.shape[:3], v.shape[3]), torch.float32 if kernel.carry else q.dtype
    many = (branches,) if branches else ()
    lse = q.new_empty((*many, *q.shape[:3]), dtype=torch.float32) if into is None else into[1].contiguous()
    norm = lse.new_empty((*many, 3, *q.shape[:3]) if keep or kernel.several else 0)
    if into is not None:
        out = into[0]
        if kernel.several:
            begin(lse, norm, lse, kernel.natural)
    elif kernel.carry:
        out = q.new_zeros((*many, *shape), dtype=dtype)
        if keep or kernel.several:
            begin(lse, norm, None if branches else sink, kernel.natural)
        else:
            lse.fill_(float("-inf"))
    else:
        out = q.new_empty((*many, *shape), dtype=dtype)
    tensors = map(problem.tensor_of, (q, k, v, out[0] if branches else out))
    sizes = _sizes(kernel, call)  # holds what it points into
    argument = problem.ForwardProblem(
        sizes,
        *tensors,
        lse.data_ptr(),
        norm.data_ptr() or None,
        out.stride(0) if branches else 0,
        call.scale,
        threads(),
    )
    if turn is not None:
        tables = [problem.expanded(t, q) for t in (turn.cos, turn.sin)]  # held until the kernel is done
        argument.cos, argument.sin = map(problem.tensor_of, tables)
    _run(kernel, argument, "forward")
    if into is not None and lse is not into[1]:
        into[1].copy_(lse)
    if not branches:
        out = out.to(q.dtype) if call.part is None else out
        return Result(out, lse, norm if keep else norm.new_empty(0), q.new_empty(0))
    lse, norm, weights = merged(norm, sink, kernel.natural)
    mixed = (weights[..., None] * out).sum(0)
    return Result(mixed.to(q.dtype), lse, norm, out.to(q.dtype))


def backward(
    call: Call,
    result: Result,
    dout: Tensor,
    dlse: Tensor | None,
    wanted: Sequence[bool],
    into: Sequence[Tensor] | None = None,
) -> Gradients:
    """See :class:`attnspec.runtime.targets.Target`."""
    q, k, v = call.q, call.k, call.v
    key = replace(_key("backward", call), carry=into is not None or _sums(call))
    kernel = native(call.program, key, call.needed)
    call.check_length(kernel.longest)
    branches = facts(call.program).separate
    dq, dk, dv = into or (
        torch.zeros(t.shape, dtype=torch.float32, device=t.device)
        if kernel.carry
        else torch.empty(t.shape, dtype=t.dtype, device=t.device)
        for t in (q, k, v)
    )
    dlse = None if dlse is None else dlse.to(torch.float32).contiguous()
    out, lse, norm = result.parts if branches else result.out, result.lse.contiguous(), result.norm.contiguous()
    buffers = [
        _buffers(call, t, number) if want else None
        for number, (t, want) in enumerate(zip(call.inputs, wanted, strict=True))
    ]
    gradients = (
        problem.gradients_of(
            [
                [
                    None
                    if buffer is None
                    else buffer[b if buffer.shape[0] > 1 else 0, kv if buffer.shape[1] > 1 else 0]
                    for buffer in buffers
                ]
                for b in range(q.shape[0])
                for kv in range(k.shape[1])
            ]
        )
        if any(wanted)
        else None
    )
    tensors = map(problem.tensor_of, (q, k, v, out[0] if branches else out, dout, dq, dk, dv))
    sizes = _sizes(kernel, call)  # holds what it points into
    argument = problem.BackwardProblem(
        sizes,
        *tensors,
        lse.data_ptr(),
        norm.data_ptr() or None,
        None if dlse is None else dlse.data_ptr(),
        None if gradients is None else ctypes.addressof(gradients),
        out.stride(0) if branches else 0,
        call.scale,
        threads(),
    )
    _run(kernel, argument, "backward")
    dinputs = [None if buffer is None else buffer.sum((0, 1)) for buffer in buffers]
    dsink = None if call.sink is None else _sink_gradient(call.sink, result, dout, dlse, bool(branches))
    if call.part is None:
        dq, dk, dv = dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)
    return Gradients(dq, dk, dv, dsink, dinputs)


def _sink_gradient(sink: Tensor, result: Result, dout: Tensor, dlse: Tensor | None, detached: bool) -> Tensor:
    """A sink is a key without a value: dS = P (0 - delta), summed over the rows where it is the same for all."""
    share = torch.exp(by_row(sink) - result.lse)
    delta = torch.zeros_like(share) if detached else (dout.float() * result.out.float()).sum(-1)
    of_rows = -(share * (delta if dlse is None else delta - dlse))
    return of_rows if sink.dim() == 3 else of_rows.sum(-1)


def _buffers(call: Call, t: Tensor, number: int) -> Tensor:
    """Room for the gradient of an input: (batch or 1, key heads or 1, *shape), one copy for each thread's work.

    A copy is needed only where the input is read by other indices than the batch entry and the head.
    """
    from attnspec.codegen.expressions.reads import names

    checked = spec(call.program)
    name = next(n for n, at in names(checked).items() if at == number)
    reads = [node for node in contents.walk(checked.score) if isinstance(node, RealRead) and node.name == name]
    alone = [any(read.indices[d] == e.Var(v) for d in range(len(read.indices))) for v in ("b", "h") for read in reads]
    by_entry, by_head = all(alone[: len(reads)]), all(alone[len(reads) :])
    copies = 1 if by_entry else call.q.shape[0], 1 if by_head else call.k.shape[1]
    return torch.zeros((*copies, *t.shape), dtype=torch.float32)


def _key(direction: str, call: Call) -> KernelKey:
    return KernelKey(direction, str(call.q.dtype).removeprefix("torch."), call.q.shape[3], call.v.shape[3], call.wide)


def _sums(call: Call) -> bool:
    """Whether a kernel must be one that adds for its results to be float32: those of parts are."""
    return call.part is not None and call.q.dtype != torch.float32


def _sizes(kernel: Native, call: Call) -> problem.Sizes:
    """The sizes for a kernel, with the inputs; integers in the type in which it computes positions."""
    kind = torch.int64 if kernel.wide else torch.int32
    inputs = [t.to(kind) if t.dtype in (torch.int32, torch.int64) else t for t in call.inputs]
    order = None if call.order is None else call.order.to(kind)
    sizes = call.sizes if kernel.plain else replace(call.sizes, scalars=call.scalars())
    found = problem.sizes_of(call.program, kernel, sizes, inputs, order, call.pages is None)
    if call.pages is not None:
        add_pages(found, call.program, kernel, sizes, call.pages, call.k.shape[2], inputs)
    return found


def _run(kernel: Native, argument: ctypes.Structure, what: str) -> None:
    if kernel.function(ctypes.byref(argument)):
        raise MemoryError(f"attnspec: not enough memory for the {what} pass's workspace")
