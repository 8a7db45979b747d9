"""Attention whose weights are products of features as a custom operator, for the CPU.

All tensors of a call go in one list, q, k, v and then inputs, for a list without tensors cannot always be passed on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.direct import direct
from attnspec.runtime.core.program import decode, facts
from attnspec.runtime.core.visible import transforming
from attnspec.runtime.linear.plain import Plain
from attnspec.runtime.linear.work import Work
from attnspec.runtime.prepare.operator import LIBRARY, define, in_places, refuse

_GIVEN = "Tensor[] tensors, str[] names, float? scale, str program"
_OF_RESULT = "Tensor out, Tensor total, Tensor dout, Tensor? dtotal, str[] wanted"


def attended(
    program: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None,
    inputs: Mapping[str, Tensor],
    totals: bool = True,
) -> tuple[Tensor, Tensor]:
    """The output (batch, heads, n_q, dim_v), of v's dtype, and the total of each row (batch, heads, n_q), float32.

    The totals are an empty tensor where nothing is divided, and where neither the caller wants them (``totals``) nor
    gradients do. Both are differentiable. Raises CallError for tensors that do not fit.
    """
    tensors = [q, k, v, *inputs.values()]
    grows = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    if direct(*tensors):
        if grows:
            return _apply_at_once(list(inputs), scale, program, *tensors)  # type: ignore[no-untyped-call,no-any-return]
        return _attend(tensors, list(inputs), scale, program, totals)
    require_plain(program, q)
    return attend_linear(tensors, list(inputs), scale, program, totals or grows)  # type: ignore[no-any-return]


def require_plain(program: str, q: Tensor) -> None:
    """Raises CallError where a call is not for these kernels: on another device, or under transforms of torch.func."""
    if q.device.type != "cpu":
        raise CallError(
            f"{facts(decode(program)).name}: kernels of these weights are for the CPU only; q is on {q.device}. "
            'target="dense" runs there'
        )
    if transforming():
        raise CallError(
            f"{facts(decode(program)).name}: kernels of these weights have no rules for torch.func; "
            'target="dense" has them'
        )


def _attend(
    tensors: Sequence[Tensor], names: Sequence[str], scale: float | None, program: str, totals: bool
) -> tuple[Tensor, Tensor]:
    plain = _plain(tensors, program)
    found = None if plain is None else plain.forward(tensors, scale, totals)
    return Work.of(tensors, names, scale, program).forward(totals) if found is None else found


def _attend_backward(*arguments: Any) -> list[Tensor]:
    """Gradients of q, k, v and of the float inputs that are wanted, in one list."""
    tensors, names, scale, program, out, total, dout, dtotal, wanted = arguments
    plain = _plain(tensors, program)
    if plain is not None:
        return plain.backward(tensors, scale, out, total, dout, dtotal)
    return Work.of(tensors, names, scale, program).backward(out, total, dout, dtotal, wanted)


def _plain(tensors: Sequence[Tensor], program: str) -> Plain | None:
    """What there is to do, if no more than that."""
    return Plain.of(program) if len(tensors) == 3 and tensors[0].shape[3] == tensors[1].shape[3] else None


def _fake(
    tensors: list[Tensor], names: list[str], scale: float | None, program: str, totals: bool
) -> tuple[Tensor, Tensor]:
    q, _, v, *_ = tensors
    kept = totals and facts(decode(program)).divides
    return v.new_empty((*q.shape[:3], v.shape[3])), v.new_empty(q.shape[:3] if kept else 0, dtype=torch.float32)


def _fake_backward(*arguments: Any) -> list[Tensor]:
    tensors, names, *_, wanted = arguments
    by_name = dict(zip(names, tensors[3:], strict=True))
    return [t.new_empty(t.shape) for t in (*tensors[:3], *(by_name[name] for name in wanted))]


define("attend_linear", f"({_GIVEN}, bool totals) -> (Tensor, Tensor)", _attend, _fake, ("CPU",))
define("attend_linear_backward", f"({_GIVEN}, {_OF_RESULT}) -> Tensor[]", _attend_backward, _fake_backward, ("CPU",))
attend_linear = torch.ops.attnspec.attend_linear.default
attend_linear_backward = torch.ops.attnspec.attend_linear_backward.default


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    tensors, ctx.names, ctx.scale, ctx.program, *_ = inputs
    ctx.save_for_backward(*output, *tensors)
    ctx.wanted = [name for name, t in zip(ctx.names, tensors[3:], strict=True) if t.requires_grad]
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, dout: Tensor | None, dtotal: Tensor | None) -> tuple[Any, ...]:
    out, total, *tensors = ctx.saved_tensors
    found: list[Tensor | None] = [None] * len(tensors)
    if dout is not None or dtotal is not None:
        dout = torch.zeros_like(out) if dout is None else dout
        given = tensors, ctx.names, ctx.scale, ctx.program
        known = direct(*tensors, dout, *(() if dtotal is None else (dtotal,))) and not torch.is_grad_enabled()
        made = (_attend_backward if known else attend_linear_backward)(*given, out, total, dout, dtotal, ctx.wanted)
        found = in_places(made, ctx.names, ctx.wanted)
    return found, None if ctx.names else [], None, None, None


class _AtOnce(torch.autograd.Function):
    """``attend_linear`` past the dispatcher, for tensors that :func:`attnspec.runtime.core.direct.direct` lets pass."""

    @staticmethod
    def forward(ctx: Any, names: list[str], scale: float | None, program: str, *tensors: Tensor) -> tuple[Tensor, ...]:
        found = _attend(tensors, names, scale, program, True)
        _save(ctx, (tensors, names, scale, program), found)
        return found

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> tuple[Any, ...]:
        return None, None, None, *_gradients(ctx, *upstream)[0]


# What Function.apply does before is for tensors that transforms have wrapped: there are none.
_apply_at_once = super(torch.autograd.Function, _AtOnce).apply

torch.library.register_autograd("attnspec::attend_linear", _gradients, setup_context=_save, lib=LIBRARY)
torch.library.register_autograd("attnspec::attend_linear_backward", refuse, lib=LIBRARY)
