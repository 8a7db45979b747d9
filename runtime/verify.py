"""Compare a kernel's output and gradients with dense attention in float64, in blocks of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attnspec.evaluate import holds
from attnspec.sizes import Sizes
from attnspec.spec import Spec

TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""Largest error that counts as agreement, relative to the largest magnitude of the exact result."""


@dataclass(frozen=True)
class Verdict:
    """The largest error of each result, relative to the largest magnitude of the exact one."""

    errors: dict[str, float]
    heads: tuple[int, ...]
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether every error is within the tolerance."""
        return all(error <= self.tolerance for error in self.errors.values())


@dataclass(frozen=True)
class Exact:
    """Dense float64 results of one head."""

    out: Tensor
    lse: Tensor
    dq: Tensor
    dk: Tensor
    dv: Tensor


def exact(
    spec: Spec,
    sizes: Sizes,
    h: int,
    b: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dout: Tensor,
    scale: float,
    tick: Callable[[], object] = lambda: None,
    block: int = 1024,
) -> Exact:
    """Dense attention and its gradients for one head, (length, dim) tensors, by blocks of ``block`` query rows."""
    q, k, v, dout = (t.double() for t in (q, k, v, dout))
    keys = torch.arange(sizes.n)
    out, dq = torch.zeros(q.shape[0], v.shape[1], dtype=torch.float64), torch.zeros_like(q)
    dk, dv = torch.zeros_like(k), torch.zeros_like(v)
    lse = torch.full((q.shape[0],), float("-inf"), dtype=torch.float64)
    for start in range(0, q.shape[0], block):
        rows = slice(start, min(start + block, q.shape[0]))
        positions = torch.arange(rows.start, rows.stop) + sizes.first
        env = {**sizes.parameters(h, b), "q": positions.numpy()[:, None], "k": keys.numpy()[None, :]}
        allowed = torch.from_numpy(holds(spec.pred, env).copy()).expand(len(positions), sizes.n)
        scores = (q[rows] @ k.T * scale).masked_fill_(~allowed, float("-inf"))
        lse[rows] = torch.logsumexp(scores, dim=1)
        weights = torch.exp(scores.sub_(lse[rows].nan_to_num(neginf=0.0)[:, None]))
        out[rows] = weights @ v
        dv += weights.T @ dout[rows]
        delta = (dout[rows] * out[rows]).sum(1, keepdim=True)
        dscores = weights.mul_((dout[rows] @ v.T).sub_(delta)).mul_(scale)
        dq[rows] = dscores @ k
        dk += dscores.T @ q[rows]
        tick()
    return Exact(out, lse, dq, dk, dv)


def verify(
    spec: Spec,
    sizes: Sizes,
    tensors: tuple[Tensor, Tensor, Tensor, Tensor],
    results: tuple[Tensor, Tensor, Tensor, Tensor],
    scale: float,
    groups: tuple[int, ...],
    tick: Callable[[], object] = lambda: None,
) -> Verdict:
    """Compare ``results`` (out, dq, dk, dv) for ``tensors`` (q, k, v, dout), in some key heads of batch entry 0."""
    q, k, v, dout = tensors
    share = sizes.heads // sizes.kv_heads
    worst = dict.fromkeys(("out", "dq", "dk", "dv"), 0.0)
    checked: list[int] = []
    for g in groups:
        parts = []
        for h in range(g * share, (g + 1) * share):
            parts.append(exact(spec, sizes, h, 0, q[0, h], k[0, g], v[0, g], dout[0, h], scale, tick))
            checked.append(h)
            for name, got, want in (("out", results[0][0, h], parts[-1].out), ("dq", results[1][0, h], parts[-1].dq)):
                worst[name] = max(worst[name], _error(got, want))
        for name, got, wants in (
            ("dk", results[2][0, g], [p.dk for p in parts]),
            ("dv", results[3][0, g], [p.dv for p in parts]),
        ):
            worst[name] = max(worst[name], _error(got, torch.stack(wants).sum(0)))
    return Verdict(worst, tuple(checked), TOLERANCE[q.dtype])


def _error(got: Tensor, want: Tensor) -> float:
    if not got.numel():
        return 0.0
    return float((got.double() - want).abs().max() / want.abs().max().clamp_min(1e-30))
