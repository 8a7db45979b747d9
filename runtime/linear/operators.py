"""Linear attention of features as a custom operator, with gradients, for the CPU.

``out_i = scale * sum over j of m_ij (a_i . b_j) v_j``, where the pattern has pair (i, j) m_ij times, in a time that is
linear in the length if the pattern lets it. Division by ``total_i``, the sum of the weights, may be part of it.

Its gradients are sums of the same form: with ``du = dout / total`` and ``dtotal = -(du . out)`` those of features
``[du, dtotal]`` of queries and ``[v, 1]`` of keys, over the pattern or its transpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnspec.runtime.core.request import Call
from attnspec.runtime.cpp.linear import Sweep, sweep

_GIVEN = "Tensor[] tensors, Tensor? order, float scale, str program, bool sums, bool divide"
_LIBRARY = torch.library.Library("attnspec", "FRAGMENT")  # type: ignore[no-untyped-call]
for _schema in (
    f"linear({_GIVEN}) -> (Tensor, Tensor)",
    f"linear_backward({_GIVEN}, Tensor out, Tensor total, Tensor dout, Tensor? dtotal) -> (Tensor, Tensor, Tensor)",
):
    _LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]

linear = torch.ops.attnspec.linear.default
linear_backward = torch.ops.attnspec.linear_backward.default


class _Given(NamedTuple):
    """The arguments of a call: ``tensors`` are the features a of queries and b of keys, v, and then the inputs.

    ``sums``: the sums of weights are wanted; ``divide``: the output is divided by them.
    """

    tensors: Sequence[Tensor]
    order: Tensor | None
    scale: float
    program: str
    sums: bool
    divide: bool

    @property
    def call(self) -> Call:
        a, b, v, *inputs = self.tensors
        return Call(a, b, v, inputs, self.order, None, self.scale, self.program)


def attended(call: Call, sums: bool, divide: bool) -> tuple[Tensor, Tensor]:
    """The output (batch, heads, n_q, dim_v) of v's dtype, and the sums of weights (batch, heads, n_q) float32.

    q and k of the call are the features of queries (batch, heads, n_q, features) and of keys (batch, kv_heads, n,
    features). The sums are an empty tensor unless they are wanted, as they are where the output is divided by them: a
    row without keys, or whose weights add up to zero, then gives zeros. Both are differentiable.
    """
    q, k, v, inputs, order, _, scale, program, *_ = call
    return linear([q, k, v, *inputs], order, scale, program, sums or divide, divide)  # type: ignore[no-any-return]


def _linear(*arguments: Any) -> tuple[Tensor, Tensor]:
    given = _Given(*arguments)
    call = given.call
    out, total = sweep(call, Sweep(one="z" if given.sums else "", divide=given.divide), *call[:3], call.v.dtype)
    return out, total if given.sums else out.new_empty(0, dtype=torch.float32)


def _linear_backward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *fields, out, total, dout, dtotal = arguments
    given = _Given(*fields)
    call = given.call
    a, b, v = call[:3]
    up, one = dout, ""
    if given.sums:
        up = dout.new_empty((*dout.shape[:3], dout.shape[3] + 1), dtype=torch.float32)
        du, dt = up[..., :-1], up[..., -1]
        du.copy_(dout)
        if given.divide:
            du *= torch.where(total == 0, 0.0, 1 / total)[..., None]
            torch.sum(du * out, -1, out=dt)
            dt.neg_()
        else:
            dt.zero_()
        if dtotal is not None:
            dt += dtotal
    dv, _ = sweep(call, Sweep(keys=True), b, a, up[..., :-1] if given.sums else up, v.dtype)
    one = "y" if given.sums else ""
    da, _ = sweep(call, Sweep(one=one), up, v, b, a.dtype)
    one = "x" if given.sums else ""
    db, _ = sweep(call, Sweep(keys=True, one=one), v, up, a, b.dtype)
    return da, db, dv


def _fake_linear(*arguments: Any) -> tuple[Tensor, Tensor]:
    a, _, v, *_ = (given := _Given(*arguments)).tensors
    out = v.new_empty((*a.shape[:3], v.shape[3]))
    return out, out.new_empty(a.shape[:3] if given.sums else 0, dtype=torch.float32)


def _fake_linear_backward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    a, b, v, *_ = (t.new_empty(t.shape) for t in arguments[0][:3])
    return a, b, v


_LIBRARY.impl("linear", _linear, "CPU")  # type: ignore[no-untyped-call]
_LIBRARY.impl("linear_backward", _linear_backward, "CPU")  # type: ignore[no-untyped-call]
torch.library.register_fake("attnspec::linear", _fake_linear, lib=_LIBRARY)
torch.library.register_fake("attnspec::linear_backward", _fake_linear_backward, lib=_LIBRARY)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    tensors, order, *ctx.rest = inputs
    ctx.save_for_backward(*output, order, *tensors)
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, dout: Tensor | None, dtotal: Tensor | None) -> tuple[Any, ...]:
    out, total, order, *tensors = ctx.saved_tensors
    found: list[Tensor | None] = [None] * len(tensors)
    if dout is not None or dtotal is not None:
        dout = torch.zeros_like(out) if dout is None else dout
        found[:3] = linear_backward(tensors, order, *ctx.rest, out, total, dout, dtotal)
    return found, None, None, None, None, None


def _refuse(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
    raise NotImplementedError(
        "attnspec has no second derivatives (create_graph=True): there is no backward of the backward kernel. "
        'target="dense" has them'
    )


torch.library.register_autograd("attnspec::linear", _gradients, setup_context=_save, lib=_LIBRARY)
torch.library.register_autograd("attnspec::linear_backward", _refuse, lib=_LIBRARY)
