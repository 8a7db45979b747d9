"""Vectors of length one, in as few passes over memory as it takes: for gradients of kernels that read them.

>>> x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
>>> unit(x).tolist()
[[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attnspec.runtime.prepare.once import once

_LEAST = 1e-12


def unit(x: Tensor) -> Tensor:
    """Vectors (.., dim), float32, over their lengths, differentiable once.

    As :func:`attnspec.runtime.prepare.rotate.units` has them: a vector of zeros stays one, and one that has something
    that is not finite becomes no number, and has no gradient.
    """
    return _Unit.apply(x)  # type: ignore[no-any-return, no-untyped-call]


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        length = x.norm(dim=-1, keepdim=True)
        if not bool(length.isfinite().all()):
            exact = x.double().norm(dim=-1, keepdim=True)  # of numbers whose squares are too large for fp32
            length = torch.where(exact.isfinite(), exact, torch.nan).to(x.dtype)
        by = length.clamp(min=_LEAST).reciprocal()
        found: Tensor = x * by
        ctx.save_for_backward(found, by)
        return found

    @staticmethod
    @once
    def backward(ctx: Any, up: Tensor) -> Tensor:
        found, by = ctx.saved_tensors
        along = (up[..., None, :] @ found[..., :, None])[..., 0]
        along = along.masked_fill(by >= 1.0 / _LEAST, 0.0)  # what is divided by is no length there
        grad: Tensor = torch.addcmul(up, found, along, value=-1.0).mul_(by)
        wrong = by.isnan()
        if bool(wrong.any()):
            grad.masked_fill_(wrong, 0.0)
        return grad
