"""What a benchmark runs: sizes, element type and device of a call, its tensors, and the clock for it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.bench.clock import Clock, wall
from attnspec.runtime.prepare.example import example
from attnspec.spec.spec import Spec

CPU = torch.device("cpu")
Peer = Callable[[Tensor, Tensor, Tensor], Any]


@dataclass(frozen=True)
class Setup:
    """What to run: sizes, head size, element type, whether the backward pass belongs to it, how often, and where.

    ``given`` are inputs in place of examples.
    """

    sizes: Sizes
    dim: int
    dtype: torch.dtype
    backward: bool
    runs: int
    device: torch.device = CPU
    given: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def dtype_name(self) -> str:
        """The element type by its name: ``bfloat16``."""
        return str(self.dtype).removeprefix("torch.")


def inputs(setup: Setup, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random q, k, v and output gradient."""
    s, generator = setup.sizes, torch.Generator(setup.device).manual_seed(seed)

    def normal(heads: int, length: int) -> Tensor:
        shape = s.batch, heads, length, setup.dim
        return torch.randn(shape, generator=generator, device=setup.device).to(setup.dtype)

    q, k, v = normal(s.heads, s.n_q), normal(s.kv_heads, s.n), normal(s.kv_heads, s.n)
    return q, k, v, normal(s.heads, s.n_q)


def examples(spec: Spec, setup: Setup, seed: int = 0) -> dict[str, Tensor]:
    """Inputs of a pattern, as a call would give them: those of the setup, and examples, the same on every device."""
    own = {name: t.to(setup.device) for name, t in setup.given.items()}
    return {**_examples(spec, setup.sizes, setup.dim, setup.device, seed), **own}


@functools.lru_cache(maxsize=1)
def _examples(spec: Spec, sizes: Sizes, dim: int, device: torch.device, seed: int) -> dict[str, Tensor]:
    """Those of the last call are kept: tables with a number for each pair take seconds to draw."""
    features = max(part.features(dim) for part in spec.weighings) or dim
    vectors = {"dim": dim, "dim_v": dim, "features": features}
    found = example(spec, sizes, torch.Generator().manual_seed(seed), vectors)
    return {name: t.to(device) for name, t in found.items()}


def call_of(function: Peer, tensors: tuple[Tensor, ...], setup: Setup) -> Callable[[], object]:
    """A call of a function of q, k and v: without gradients, or with all of theirs."""
    q, k, v, gradient = tensors
    if not setup.backward:

        def forward() -> object:
            with torch.no_grad():
                return function(q, k, v)

        return forward

    def both() -> object:
        leaves = [t.detach().requires_grad_() for t in (q, k, v)]
        return torch.autograd.grad(function(*leaves), leaves, gradient)

    return both


@functools.cache
def clock_of(device: torch.device) -> Clock:
    """The clock for calls on a device."""
    if device.type == "cpu":
        return wall
    from attnspec.runtime.bench.cuda_clock import CudaClock

    return CudaClock(device)
