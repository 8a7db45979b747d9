"""Forward and backward of a program on tensors that fit: allocation, the kernel, and what is left to do around it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from attnspec.codegen.cpp.unit import KernelKey
from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.program import Program, facts, spec
from attnspec.runtime.core.request import Extra, Turn, check_length, is_wide, scalars_of
from attnspec.runtime.cpp import structures as problem
from attnspec.runtime.cpp.load import Native, native
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.real import RealRead


def forward(
    program: Program,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extra: Extra,
    scale: float,
    keep: bool,
    turn: Turn | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output (batch, heads, n_q, dim_v) of q's dtype, log-sum-exp (batch, heads, n_q) float32, and outputs of branches.

    The last are (branches, batch, heads, n_q, dim_v) where the weights of a mixture are detached and ``keep`` asks for
    them, else empty. ``turn`` says how queries are turned, where that is left to the kernel.
    """
    key = _key("forward", q, k, v)
    if turn is not None:
        key = replace(key, turn=2 * turn.cos.shape[-1], pairs=turn.pairs)
    made = native(program, key, q.shape[1], k.shape[1], q.shape[0])
    sizes = _sizes(program, made, q, k, extra)
    check_length(program, made.longest, q, k)
    branches = facts(program).separate if keep else 0
    shape, dtype = (*q.shape[:3], v.shape[3]), torch.float32 if made.carry else q.dtype
    many = (branches,) if branches else ()
    if made.carry:
        out = q.new_zeros((*many, *shape), dtype=dtype)
        lse = q.new_full((*many, *q.shape[:3]), float("-inf"), dtype=torch.float32)
        if extra.sink is not None and not branches:
            lse.copy_(extra.sink[..., None].expand(lse.shape))
    else:
        out = q.new_empty((*many, *shape), dtype=dtype)
        lse = q.new_empty((*many, *q.shape[:3]), dtype=torch.float32)
    one = out[0] if branches else out
    tensors = map(problem.tensor_of, (q, k, v, one))
    own = problem.sizes_of(program, made, sizes, *_typed(made, extra))  # holds what it points into
    argument = problem.ForwardProblem(
        own,
        *tensors,
        lse.data_ptr(),
        out.stride(0) if branches else 0,
        scale,
        torch.get_num_threads(),
    )
    if turn is not None:
        tables = [problem.expanded(t, q) for t in (turn.cos, turn.sin)]  # held until the kernel is done
        argument.cos, argument.sin = map(problem.tensor_of, tables)
    _run(made, argument, "forward")
    if not branches:
        return out.to(q.dtype), lse, q.new_empty(0)
    terms = lse if extra.sink is None else torch.cat([lse, extra.sink[None, ..., None].expand_as(lse[:1])])
    total = torch.logsumexp(terms, 0)
    weights = torch.exp(lse - total.nan_to_num(neginf=0.0))
    mixed = (weights[..., None] * out).sum(0)
    return mixed.to(q.dtype), total, out.to(q.dtype)


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
    """Gradients of q, k, v (contiguous, of their shapes and dtypes), of the sink, and of the inputs that are wanted."""
    made = native(program, _key("backward", q, k, v), q.shape[1], k.shape[1], q.shape[0])
    sizes = _sizes(program, made, q, k, extra)
    check_length(program, made.longest, q, k)
    branches = facts(program).separate
    dq, dk, dv = (
        torch.zeros(t.shape, dtype=torch.float32, device=t.device)
        if made.carry
        else torch.empty(t.shape, dtype=t.dtype, device=t.device)
        for t in (q, k, v)
    )
    dlse = None if dlse is None else dlse.to(torch.float32).contiguous()
    lse = lse.contiguous()
    own = parts if branches else out
    buffers = [
        _buffers(program, t, number, q, k) if want else None
        for number, (t, want) in enumerate(zip(extra.inputs, wanted, strict=True))
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
    tensors = map(problem.tensor_of, (q, k, v, own[0] if branches else own, dout, dq, dk, dv))
    held = problem.sizes_of(program, made, sizes, *_typed(made, extra))  # holds what it points into
    argument = problem.BackwardProblem(
        held,
        *tensors,
        lse.data_ptr(),
        None if dlse is None else dlse.data_ptr(),
        None if gradients is None else ctypes.addressof(gradients),
        own.stride(0) if branches else 0,
        scale,
        torch.get_num_threads(),
    )
    _run(made, argument, "backward")
    dinputs = [None if buffer is None else buffer.sum((0, 1)) for buffer in buffers]
    dsink = None if extra.sink is None else _sink_gradient(extra.sink, out, lse, dout, dlse, bool(branches))
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), dsink, dinputs


def _sink_gradient(sink: Tensor, out: Tensor, lse: Tensor, dout: Tensor, dlse: Tensor | None, detached: bool) -> Tensor:
    """A sink is a key without a value: dS = P (0 - delta), summed over the rows."""
    share = torch.exp(sink[..., None] - lse)
    delta = torch.zeros_like(lse) if detached else (dout.float() * out.float()).sum(-1)
    return -(share * (delta if dlse is None else delta - dlse)).sum(-1)


def _buffers(program: Program, t: Tensor, number: int, q: Tensor, k: Tensor) -> Tensor:
    """Room for the gradient of an input: (batch or 1, key heads or 1, *shape), one copy for each thread's work.

    A copy is needed only where the input is read by other indices than the batch entry and the head.
    """
    from attnspec.codegen.expressions.reads import names

    own = spec(program)
    name = next(n for n, at in names(own).items() if at == number)
    reads = [node for node in contents.walk(own.score) if isinstance(node, RealRead) and node.name == name]
    alone = [any(read.indices[d] == e.Var(v) for d in range(len(read.indices))) for v in ("b", "h") for read in reads]
    by_entry, by_head = all(alone[: len(reads)]), all(alone[len(reads) :])
    copies = 1 if by_entry else q.shape[0], 1 if by_head else k.shape[1]
    return torch.zeros((*copies, *t.shape), dtype=torch.float32)


def _sizes(program: Program, made: Native, q: Tensor, k: Tensor, extra: Extra) -> Sizes:
    end = facts(program).align == "end"
    m = None if extra.m < 0 else extra.m
    sizes = Sizes(k.shape[2], q.shape[2], q.shape[1], k.shape[1], q.shape[0], end, m)
    return sizes if made.plain else replace(sizes, scalars=scalars_of(program, extra))


def _key(direction: str, q: Tensor, k: Tensor, v: Tensor) -> KernelKey:
    return KernelKey(direction, str(q.dtype).removeprefix("torch."), q.shape[3], v.shape[3], is_wide(q, k))


def _typed(made: Native, extra: Extra) -> tuple[list[Tensor], Tensor | None]:
    """Integers in the type in which the kernel computes positions."""
    kind = torch.int64 if made.wide else torch.int32
    integers = (torch.int32, torch.int64)
    inputs = [t.to(kind) if t.dtype in integers else t for t in extra.inputs]
    return inputs, None if extra.order is None else extra.order.to(kind)


def _run(made: Native, argument: ctypes.Structure, what: str) -> None:
    if made.function(ctypes.byref(argument)):
        raise MemoryError(f"attnspec: not enough memory for the {what} pass's workspace")
