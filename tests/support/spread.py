"""An attention over many ranks beside the same on one: results, gradients, and the bytes that were sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import attnspec
from attnspec.runtime.distributed.transport import Transport
from tests.support.ranks import Simulated, simulate

TOLERANCE = {torch.float32: 3e-5, torch.bfloat16: 4e-2, torch.float16: 1e-2}


@dataclass(frozen=True)
class Layer:
    """A call: its pattern with parameters, and its sizes; ``inputs`` are whole."""

    text: str
    n: int = 50
    heads: int = 4
    kv_heads: int = 2
    dim: int = 16
    batch: int = 2
    dtype: torch.dtype = torch.float32
    params: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    lse: bool = True
    target: str = "auto"

    def vectors(self) -> list[Tensor]:
        """Whole q, k, v, and gradients of the output and of its log-sum-exp."""
        torch.manual_seed(0)
        sizes = [self.heads, self.kv_heads, self.kv_heads, self.heads]
        found = [torch.randn(self.batch, heads, self.n, self.dim).to(self.dtype) for heads in sizes]
        return [*found, torch.randn(self.batch, self.heads, self.n)]


def results(call: Any, q: Tensor, k: Tensor, v: Tensor, dout: Tensor, dlse: Tensor, layer: Layer) -> list[Tensor]:
    """Output, log-sum-exp and gradients of q, k, v and of float inputs."""
    vectors = [t.detach().clone().requires_grad_() for t in (q, k, v)]
    inputs = {name: t.clone().requires_grad_(t.is_floating_point()) for name, t in layer.inputs.items()}
    found = call(*vectors, inputs=inputs, **({"return_lse": True} if layer.lse else {}))
    out, lse = found if layer.lse else (found, torch.zeros_like(dlse))
    loss = (out.float() * dout.float()).sum() + (lse.masked_fill(lse == -torch.inf, 0.0) * dlse).sum()
    wanted = [*vectors, *(t for t in inputs.values() if t.requires_grad)]
    return [out.detach(), lse.detach(), *torch.autograd.grad(loss, wanted, materialize_grads=True)]


def spread(transport: Transport | None, layer: Layer, **options: Any) -> tuple[list[Tensor], list[int]]:
    """The same on one rank of many, gathered, and the bytes that it sent, forward and backward, if that is counted."""
    attend = attnspec.compile(layer.text, target=layer.target, **layer.params)
    options = {"n": layer.n, "batch": layer.batch, "dtype": layer.dtype, **options}
    sizes = {"heads": layer.heads, "kv_heads": layer.kv_heads, "dim": layer.dim}
    far = attnspec.distribute(attend, transport, **sizes, **options)
    found = results(far, *(far.shard(t, 2) for t in layer.vectors()), layer)
    return [*(far.gather(t, 2) for t in found[:5]), *found[5:]], [far.rank]


def wrong_by(found: Sequence[Tensor], layer: Layer) -> float:
    """The largest difference from one device, as a share of what is allowed."""
    want = results(attnspec.compile(layer.text, **layer.params), *layer.vectors(), layer)
    worst = 0.0
    for a, b in zip(found, want, strict=True):
        assert torch.equal(a == -torch.inf, b == -torch.inf)
        a, b = (t.float().masked_fill(t == -torch.inf, 0.0) for t in (a, b))
        error = float((a - b).abs().max()) / max(1.0, float(b.abs().max()))
        worst = max(worst, error / TOLERANCE[layer.dtype])
    return worst


def check(layer: Layer, ranks: int, seed: int = 0, **options: Any) -> list[list[Tensor]]:
    """On simulated ranks as on one device; returns what each of them found."""

    def run(transport: Simulated) -> list[Tensor]:
        return spread(transport, layer, **options)[0]

    found = simulate(ranks, run, seed).results
    for one in found:
        assert wrong_by(one, layer) < 1, (layer.text, ranks, options)
    return found
