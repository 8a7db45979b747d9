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


def learned(module: torch.nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """The parameters of a module by name, drawn anew: the same in every run, and none of them zero."""
    generator = torch.Generator().manual_seed(seed)
    found = dict(module.named_parameters())
    with torch.no_grad():
        for x in found.values():
            x.copy_(torch.randn(x.shape, generator=generator) * (x.shape[-1] ** -0.5 if x.dim() > 1 else 0.3))
    return found


def split(x: Tensor, heads: int) -> Tensor:
    """(batch, n, heads * dim) to (batch, heads, n, dim)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge(x: Tensor) -> Tensor:
    """(batch, heads, n, dim) to (batch, n, heads * dim)."""
    return x.transpose(1, 2).flatten(2)


def additive(mask: Tensor) -> Tensor:
    """Zero where a pair may stand, the lowest number where not."""
    return torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)


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
    weights = random(*mine.shape, seed=99).detach()
    gradients = (torch.autograd.grad((out * weights).sum(), list(sources.values())) for out in (mine, theirs))
    for name, a, b in zip(sources, *gradients, strict=True):
        close(f"gradient of {name}", a, b, tolerance)
        assert b.abs().max() > 0, f"the gradient of {name} says nothing"
