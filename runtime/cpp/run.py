"""Forward and backward of a program on tensors that fit: allocation, the kernel, and what is left to do around it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from attnspec.runtime.core.form import Form, empty, zeros
from attnspec.runtime.core.norm import begin, by_row, merged
from attnspec.runtime.core.program import facts, spec
from attnspec.runtime.core.request import EMPTY, Call, Gradients, Result, Turn
from attnspec.runtime.cpp import prepared
from attnspec.runtime.cpp import structures as problem
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.real import RealRead

_NO_TABLES = [0] * 10
"""In place of the addresses and strides of cosines and sines."""


def forward(call: Call, keep: bool, *, into: tuple[Tensor, Tensor] | None = None, turn: Turn | None = None) -> Result:
    """See :class:`attnspec.runtime.targets.Target`. ``turn``: how the kernel is to turn queries, if it is to."""
    q, k, v, sink = call.q, call.k, call.v, call.sink
    moving, turning = prepared.is_moving(call), None
    angles: Sequence[Tensor] = ()
    forms: tuple[Form, ...] = ()
    if turn is not None:
        angles = cos, sin = [t if t.stride(-1) == 1 else t.contiguous() for t in (turn.cos, turn.sin)]
        turning, forms = (turn.pairs, 2 * cos.shape[-1]), (cos.shape, cos.stride(), sin.shape, sin.stride())
    if moving:
        made = prepared.moving_of(call, keep, into is not None, turning)
    else:
        made = prepared.forward(
            call.encoded, keep, q.dtype, q.shape, q.stride(), k.shape, k.stride(), v.shape, v.stride(), turning, forms
        )
    kernel, branches = made.kernel, made.branches
    of_out, of_lse, of_norm = made.results
    out, lse = (empty(*of_out), empty(*of_lse)) if into is None else (into[0], into[1].contiguous())
    norm = empty(*of_norm) if keep or kernel.several else EMPTY
    if into is not None:
        if kernel.several:
            begin(lse, norm, lse, kernel.natural)
    elif kernel.carry:
        out.zero_()
        if keep or kernel.several:
            begin(lse, norm, None if branches else sink, kernel.natural)
        else:
            lse.fill_(float("-inf"))
    if moving:
        angles = [t.expand(*q.shape[:3], t.shape[-1]) for t in angles]
        tables = _strided(*angles) if angles else _NO_TABLES
        last = lse.data_ptr(), norm.data_ptr(), out.stride(0) if branches else 0
        if not made.run(call, [*_strided(q, k, v, out), *last], tables):
            out, lse = zeros(*of_out), lse.fill_(float("-inf"))
    else:
        addresses = q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), lse.data_ptr(), norm.data_ptr()
        made.run(call, addresses, [t.data_ptr() for t in angles])
    if into is not None and lse is not into[1]:
        into[1].copy_(lse)
    if not branches:
        out = out.to(q.dtype) if kernel.carry and call.part is None else out
        return Result(out, lse, norm if keep else EMPTY, EMPTY)
    lse, norm, weights = merged(norm, sink, kernel.natural)
    mixed = (weights[..., None] * out).sum(0)
    return Result(mixed.to(q.dtype), lse, norm, out.to(q.dtype))


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
    q, k, v = call.q, call.k, call.v
    dlse = None if dlse is None else dlse.to(torch.float32).contiguous()
    out = result.parts if facts(call.program).separate else result.out
    lse, norm = result.lse.contiguous(), result.norm.contiguous()
    made = prepared.backward(
        call.encoded,
        call.part,
        q.dtype,
        q.shape,
        q.stride(),
        k.shape,
        k.stride(),
        v.shape,
        v.stride(),
        out.stride(),
        dout.stride(),
        None if into is None else tuple([t.stride() for t in into]),
    )
    dq, dk, dv = into or [empty(*of) for of in made.results]
    if into is None and made.kernel.carry:
        dq.zero_(), dk.zero_(), dv.zero_()
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
    where = 0 if gradients is None else ctypes.addressof(gradients)
    tensors = q, k, v, out, dout, dq, dk, dv, lse, norm, EMPTY if dlse is None else dlse
    made.run(call, [*[t.data_ptr() for t in tensors], where])
    dinputs = [None if buffer is None else buffer.sum((0, 1)) for buffer in buffers]
    dsink = None if call.sink is None else _sink_gradient(call.sink, result, dout, dlse, bool(made.branches))
    if call.part is None:
        dq, dk, dv = dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)
    return Gradients(dq, dk, dv, dsink, dinputs)


def _strided(*tensors: Tensor) -> list[int]:
    """The address and the strides of each, of four dimensions; of several outputs those of one."""
    return [number for t in tensors for number in (t.data_ptr(), *t.stride()[-4:])]


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
