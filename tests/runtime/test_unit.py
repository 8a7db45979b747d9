"""Vectors of length one for kernels of features."""

from __future__ import annotations

import torch

import attnspec
from attnspec.runtime.linear.unit import unit
from attnspec.runtime.prepare.rotate import units


def test_it_is_what_normalize_means_with_gradients() -> None:
    """Zeros, short vectors, and such that are no numbers too."""
    torch.manual_seed(0)
    x = 3 * torch.randn(3, 50, 7)
    x[0, 3], x[1, 2, 1], x[1, 4, 2] = 0.0, torch.nan, torch.inf
    x[2, 1] *= 1e-14
    up = torch.randn(3, 50, 7)
    found, want = x.clone().requires_grad_(), x.clone().requires_grad_()
    mine, theirs = unit(found), units(attnspec.read("delta"), want, want)[0]
    torch.testing.assert_close(mine, theirs, equal_nan=True)
    (a,), (b,) = (torch.autograd.grad(y, s, up) for y, s in ((mine, found), (theirs, want)))
    torch.testing.assert_close(a, b)
