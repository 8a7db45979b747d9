"""The custom operators, so that torch.compile, torch.export, autocast and checkpointing see plain functions of tensors.

They are defined with ``torch.library.Library`` and not with its ``custom_op``: the latter imports all of TorchDynamo, a
second of start-up, at the first call of an operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from attnspec.runtime.core.program import Program, decode, facts
from attnspec.runtime.core.request import Extra, Turn
from attnspec.runtime.cpp import run as call

_EXTRA = "Tensor[] inputs, Tensor? order, Tensor? sink, SymInt m"
_LIBRARY = torch.library.Library("attnspec", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define(  # type: ignore[no-untyped-call]
    f"attend(Tensor q, Tensor k, Tensor v, {_EXTRA}, float scale, str program, bool keep) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_LIBRARY.define(  # type: ignore[no-untyped-call]
    f"attend_turning(Tensor q, Tensor k, Tensor v, Tensor cos, Tensor sin, bool pairs, {_EXTRA}, float scale, "
    "str program) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_LIBRARY.define(  # type: ignore[no-untyped-call]
    f"attend_backward(Tensor q, Tensor k, Tensor v, {_EXTRA}, Tensor out, Tensor lse, Tensor parts, Tensor dout, "
    "Tensor? dlse, float scale, str program, bool[] wanted) -> (Tensor, Tensor, Tensor, Tensor, Tensor[])",
    tags=(torch.Tag.pt2_compliant_tag,),
)

attend = torch.ops.attnspec.attend.default
attend_turning = torch.ops.attnspec.attend_turning.default
attend_backward = torch.ops.attnspec.attend_backward.default


def _calls(program: Program, q: Tensor) -> Any:
    """Where forward and backward of a program are for the device of its tensors."""
    if program.target == "triton" or (program.target == "auto" and q.device.type != "cpu"):
        from attnspec.runtime.triton import run as triton_call

        return triton_call
    return call


def keeps(*tensors: Tensor | None) -> bool:
    """Whether a call of these tensors may need gradients."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    inputs: Sequence[Tensor],
    order: Tensor | None,
    sink: Tensor | None,
    m: int,
    scale: float,
    program: str,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, log-sum-exp and (where weights are detached) the outputs of the branches of a program's attention.

    The last are needed for gradients only, and empty unless ``keep``.
    """
    own, extra = decode(program), Extra(tuple(inputs), order, sink, m)
    found: tuple[Tensor, Tensor, Tensor] = _calls(own, q).forward(own, q, k, v, extra, scale, keep)
    return found


def _attend_turning(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    pairs: bool,
    inputs: Sequence[Tensor],
    order: Tensor | None,
    sink: Tensor | None,
    m: int,
    scale: float,
    program: str,
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp, where the kernel turns the queries by these angles; without gradients."""
    extra = Extra(tuple(inputs), order, sink, m)
    return call.forward(decode(program), q, k, v, extra, scale, False, Turn(cos, sin, pairs))[:2]


def _attend_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    inputs: Sequence[Tensor],
    order: Tensor | None,
    sink: Tensor | None,
    m: int,
    out: Tensor,
    lse: Tensor,
    parts: Tensor,
    dout: Tensor,
    dlse: Tensor | None,
    scale: float,
    program: str,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """Gradients of q, k, v, the sink (empty without one) and the inputs (those that are not wanted are empty)."""
    own, extra = decode(program), Extra(tuple(inputs), order, sink, m)
    dq, dk, dv, dsink, dinputs = _calls(own, q).backward(
        own, q, k, v, extra, out, lse, parts, dout, dlse, scale, wanted
    )
    none = q.new_empty(0, dtype=torch.float32)
    return dq, dk, dv, none if dsink is None else dsink, [q.new_empty(0) if d is None else d for d in dinputs]


_LIBRARY.impl("attend_turning", _attend_turning, "CPU")  # type: ignore[no-untyped-call]
for _device in ("CPU", "CUDA"):  # CUDA serves ROCm too
    _LIBRARY.impl("attend", _attend, _device)  # type: ignore[no-untyped-call]
    _LIBRARY.impl("attend_backward", _attend_backward, _device)  # type: ignore[no-untyped-call]


@torch.library.register_fake("attnspec::attend", lib=_LIBRARY)  # type: ignore[untyped-decorator]
def _(
    q: Tensor, k: Tensor, v: Tensor, inputs: Any, order: Any, sink: Any, m: Any, scale: float, program: str, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    out = q.new_empty((q.shape[0], q.shape[1], q.shape[2], v.shape[3]))
    lse = q.new_empty((q.shape[0], q.shape[1], q.shape[2]), dtype=torch.float32)
    branches = facts(decode(program)).separate
    return out, lse, q.new_empty((branches, *out.shape)) if branches and keep else q.new_empty(0)


@torch.library.register_fake("attnspec::attend_turning", lib=_LIBRARY)  # type: ignore[untyped-decorator]
def _(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty((*q.shape[:3], v.shape[3])), q.new_empty(q.shape[:3], dtype=torch.float32)


@torch.library.register_fake("attnspec::attend_backward", lib=_LIBRARY)  # type: ignore[untyped-decorator]
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    inputs: Sequence[Tensor],
    order: Any,
    sink: Tensor | None,
    m: Any,
    out: Tensor,
    lse: Tensor,
    parts: Tensor,
    dout: Tensor,
    dlse: Tensor | None,
    scale: float,
    program: str,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    dsink = q.new_empty(0, dtype=torch.float32) if sink is None else sink.new_empty(sink.shape)
    dinputs = [
        t.new_empty(t.shape, dtype=torch.float32) if want else q.new_empty(0)
        for t, want in zip(inputs, wanted, strict=True)
    ]
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), dsink, dinputs


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v, tensors, order, sink, m, scale, program, _ = inputs
    ctx.save_for_backward(q, k, v, order, sink, *output, *tensors)
    ctx.scale, ctx.program, ctx.m = scale, program, m
    ctx.wanted = [t.requires_grad for t in tensors]
    ctx.sinks = sink is not None and sink.requires_grad
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, dout: Tensor | None, dlse: Tensor | None, dparts: Tensor | None) -> tuple[Any, ...]:
    q, k, v, order, sink, out, lse, parts, *inputs = ctx.saved_tensors
    if dout is None and dlse is None:
        return None, None, None, [None] * len(inputs), None, None, None, None, None, None
    if dout is None:
        dout = torch.zeros_like(out)
    dq, dk, dv, dsink, dinputs = attend_backward(
        q, k, v, inputs, order, sink, ctx.m, out, lse, parts, dout, dlse, ctx.scale, ctx.program, ctx.wanted
    )
    own = [d if want else None for d, want in zip(dinputs, ctx.wanted, strict=True)]
    return dq, dk, dv, own, None, dsink if ctx.sinks else None, None, None, None, None


def _refuse(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
    raise NotImplementedError(
        "attnspec has no second derivatives (create_graph=True): there is no backward of the backward kernel. "
        'target="dense" has them'
    )


def _refuse_turning(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
    raise NotImplementedError(
        "attnspec::attend_turning has no gradients: attend is called where they are wanted. A graph that was traced "
        "without them (by make_fx, say) must be traced with inputs that ask for them"
    )


torch.library.register_autograd("attnspec::attend_backward", _refuse, lib=_LIBRARY)
torch.library.register_autograd("attnspec::attend_turning", _refuse_turning, lib=_LIBRARY)
torch.library.register_autograd("attnspec::attend", _gradients, setup_context=_save, lib=_LIBRARY)
