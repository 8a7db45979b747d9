"""Results and gradients of two ways to compute the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

TOLERANCE = 3e-5
"""Both sides in float32: rounding of sums over at most some hundred keys, of numbers around 1."""


def random(*shape: int, seed: int = 0, size: float = 1.0) -> Tensor:
    """A normal tensor that asks for gradients."""
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size).requires_grad_()


def close(name: str, got: Tensor, want: Tensor, tolerance: float = TOLERANCE) -> None:
    """Assert that the largest error is within the tolerance, absolute below 1, relative to the largest value above."""
    assert got.shape == want.shape, name
    assert not got.isnan().any(), f"{name} has NaN"
    error = float((got.detach().double() - want.detach().double()).abs().max()) if got.numel() else 0.0
    bound = tolerance * max(1.0, float(want.detach().abs().max())) if got.numel() else 0.0
    assert error <= bound, f"{name}: error {error:.2e} is over {bound:.2e}"


def alike(
    got: Callable[[], Tensor], want: Callable[[], Tensor], sources: Mapping[str, Tensor], tolerance: float = TOLERANCE
) -> None:
    """Assert that two results agree, and their gradients by all sources, for one random gradient of the result."""
    mine, theirs = got(), want()
    close("out", mine, theirs, tolerance)
    weights = torch.randn(mine.shape, generator=torch.Generator().manual_seed(99))
    gradients = (
        torch.autograd.grad((out * weights.to(out.dtype)).sum(), list(sources.values())) for out in (mine, theirs)
    )
    for name, a, b in zip(sources, *gradients, strict=True):
        close(f"gradient of {name}", a, b, tolerance)
        assert b.abs().max() > 0, f"the gradient of {name} says nothing"
