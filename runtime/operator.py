"""The custom operators, so that torch.compile, torch.export, autocast and checkpointing see plain functions of tensors.

They are defined with ``torch.library.Library`` and not with its ``custom_op``: the latter imports all of TorchDynamo, a
second of start-up, at the first call of an operator.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attnspec.runtime import native
from attnspec.runtime.program import decode

_LIBRARY = torch.library.Library("attnspec", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define(  # type: ignore[no-untyped-call]
    "attend(Tensor q, Tensor k, Tensor v, float scale, str program) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_LIBRARY.define(  # type: ignore[no-untyped-call]
    "attend_backward(Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, Tensor dout, Tensor? dlse, float scale, "
    "str program) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)

attend = torch.ops.attnspec.attend.default
attend_backward = torch.ops.attnspec.attend_backward.default


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, program: str) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of a program's attention."""
    return native.forward(decode(program), q, k, v, scale)


def _attend_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    dout: Tensor,
    dlse: Tensor | None,
    scale: float,
    program: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    return native.backward(decode(program), q, k, v, out, lse, dout, dlse, scale)


_LIBRARY.impl("attend", _attend, "CPU")  # type: ignore[no-untyped-call]
_LIBRARY.impl("attend_backward", _attend_backward, "CPU")  # type: ignore[no-untyped-call]


@torch.library.register_fake("attnspec::attend", lib=_LIBRARY)  # type: ignore[untyped-decorator]
def _(q: Tensor, k: Tensor, v: Tensor, scale: float, program: str) -> tuple[Tensor, Tensor]:
    out = q.new_empty((q.shape[0], q.shape[1], q.shape[2], v.shape[3]))
    return out, q.new_empty((q.shape[0], q.shape[1], q.shape[2]), dtype=torch.float32)


@torch.library.register_fake("attnspec::attend_backward", lib=_LIBRARY)  # type: ignore[untyped-decorator]
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    dout: Tensor,
    dlse: Tensor | None,
    scale: float,
    program: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, scale, program = inputs
    ctx.save_for_backward(q, k, v, *output)
    ctx.scale, ctx.program = scale, program
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Any, ...]:
    q, k, v, out, lse = ctx.saved_tensors
    if dout is None and dlse is None:
        return None, None, None, None, None
    if dout is None:
        dout = torch.zeros_like(out)
    dq, dk, dv = attend_backward(q, k, v, out, lse, dout, dlse, ctx.scale, ctx.program)
    return dq, dk, dv, None, None


def _refuse(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
    raise NotImplementedError(
        "attnspec has no second derivatives (create_graph=True): there is no backward of the backward kernel. "
        'target="dense" has them'
    )


torch.library.register_autograd("attnspec::attend_backward", _refuse, lib=_LIBRARY)
torch.library.register_autograd("attnspec::attend", _gradients, setup_context=_save, lib=_LIBRARY)
