"""Compare a kernel's output and gradients with dense attention in float64, in blocks of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.attention import Attention
from attnspec.runtime.bench.exact import Exact
from attnspec.runtime.cpp.merge import mixed
from attnspec.runtime.dense.counts import Rows
from attnspec.runtime.dense.softmax import Block, dense_block, of_rows
from attnspec.runtime.prepare.inputs import prepare
from attnspec.runtime.prepare.order import hash_buckets, lsh
from attnspec.runtime.prepare.rotate import turned
from attnspec.spec.spec import Spec

TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""Largest error that counts as agreement, relative to the largest magnitude of the exact result."""
_BLOCK = 1 << 22
_ALL_ROWS, _SAMPLE = 2048, 16


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


def block_rows(spec: Spec, sizes: Sizes) -> int:
    """How many rows are looked at together; in each there are ``rounds`` slots of an order for every position."""
    rounds = 1 if spec.order is None else spec.order.rounds
    return max(1, min(1024, _BLOCK // max(1, sizes.n * rounds**2)))


def sampled(n_q: int) -> tuple[slice, ...]:
    """Blocks of rows to look at: all of short calls; of others the first, the last, and some in between.

    About 500 rows in blocks of 16, the same ones for the same number of rows.
    """
    if n_q <= _ALL_ROWS:
        return (slice(0, n_q),)
    number = -(-n_q // _SAMPLE)
    inner = np.random.default_rng(n_q).choice(np.arange(1, number - 1), min(30, number - 2), replace=False)
    return tuple(slice(i * _SAMPLE, min((i + 1) * _SAMPLE, n_q)) for i in sorted([0, *inner.tolist(), number - 1]))


def heads_of(sizes: Sizes, groups: tuple[int, ...]) -> tuple[int, ...]:
    """The query heads of some key heads."""
    share = sizes.heads // sizes.kv_heads
    return tuple(h for g in groups for h in range(g * share, (g + 1) * share))


def results_of(
    attend: Attention, tensors: tuple[Tensor, Tensor, Tensor, Tensor], inputs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Output and gradients of a call for ``tensors`` (q, k, v, dout), by the names that :func:`verify` has for them."""
    *vectors, dout = tensors
    learned = {name: t.clone().requires_grad_() for name, t in inputs.items() if t.is_floating_point()}
    leaves = [t.clone().requires_grad_() for t in vectors]
    call: Callable[..., Tensor] = attend
    out = call(*leaves, **{**inputs, **learned})
    gradients = torch.autograd.grad(out, [*leaves, *learned.values()], dout, allow_unused=True)
    named = zip(("dq", "dk", "dv", *(f"d{name}" for name in learned)), gradients, strict=True)
    return {"out": out.detach(), **{name: t for name, t in named if t is not None}}


def verify(
    spec: Spec,
    sizes: Sizes,
    tensors: tuple[Tensor, Tensor, Tensor, Tensor],
    results: Mapping[str, Tensor],
    inputs: Mapping[str, Tensor],
    groups: tuple[int, ...],
    scale: float | None = None,
    tick: Callable[[], object] = lambda: None,
    blocks: Sequence[slice] | None = None,
) -> Verdict:
    """Compare ``results`` for ``tensors`` (q, k, v, dout), in some key heads (``groups``) of batch entry 0.

    ``results`` are ``out``, ``dq``, ``dk``, ``dv`` and ``d`` followed by the name of a float input for its gradient;
    these gradients are compared as sums over the heads that are looked at: dout must be zero elsewhere. ``scale`` None
    is the pattern's, or 1 / sqrt(dim). ``tick`` is called after each block of rows. Only the rows in ``blocks`` are
    looked at, if given (see :func:`sampled`): dout must be zero in others, and then gradients are exact for all keys.
    Everything is computed on the CPU but an order's buckets, which may be others where projections are added up in
    another order.
    """
    buckets = inputs.get("buckets")
    if spec.order is not None and buckets is None:
        buckets = hash_buckets(tensors[0], spec.order)
    q, k, v, dout = (t.detach().cpu() for t in tensors)
    inputs = {name: t.cpu() for name, t in {**inputs, **({} if buckets is None else {"buckets": buckets})}.items()}
    results = {name: t.detach().cpu() for name, t in results.items()}
    rows = tuple(blocks or [slice(0, sizes.n_q)])
    dense: _Dense | Exact = (
        _Dense(spec, sizes, q, k, v, dout, inputs, scale, tick, rows)
        if spec.softmax_only
        else Exact(spec, sizes, (q, k, v, dout), inputs, scale, tick, rows)
    )
    checked = heads_of(sizes, groups)
    found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in ("out", "dq", "dk", "dv")}
    for g in groups:
        for h in checked:
            if h * sizes.kv_heads // sizes.heads == g:
                exact = dense.head(h, g)
                found["out"] += [(results["out"][0, h, block], exact[block]) for block in rows]
    dq, dk = dense.gradients()
    found["dq"] = [(results["dq"][0, h], dq[h]) for h in checked]
    found["dk"] = [(results["dk"][0, g], dk[g]) for g in groups]
    found["dv"] = [(results["dv"][0, g], dense.dv[g]) for g in groups]
    for name, total in dense.dfloats.items():
        if f"d{name}" in results:
            found[f"d{name}"] = [(results[f"d{name}"], total)]
    worst = {name: max((_error(got, want) for got, want in pairs), default=0.0) for name, pairs in found.items()}
    return Verdict(worst, checked, TOLERANCE[q.dtype])


class _Dense:
    """Dense float64 attention of batch entry 0, head by head, with gradients that add up.

    Queries and keys are (branches, heads, .., dim): each branch that is computed by itself may turn them its own way.
    """

    def __init__(
        self,
        spec: Spec,
        sizes: Sizes,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        dout: Tensor,
        inputs: Mapping[str, Tensor],
        scale: float | None,
        tick: Callable[[], object],
        blocks: tuple[slice, ...],
    ) -> None:
        self.spec, self.sizes, self.v, self.dout, self.tick, self.blocks = spec, sizes, v, dout, tick, blocks
        self.branches = spec.calls
        default = 1.0 / math.sqrt(q.shape[-1])
        own = (default if one.scale is None else one.scale for one in self.branches)
        self.scales = [factor if scale is None else scale for factor in own]
        self.floats = {
            name: t.detach().double().contiguous().requires_grad_()
            for name, t in inputs.items()
            if t.is_floating_point()
        }
        self.ready = prepare(spec, sizes, {**inputs, **self.floats}, real=torch.float64)
        arrays = {name: t.numpy() for name, t in self.ready.items() if not t.is_floating_point()}
        slots = None
        if spec.order is not None:
            found = lsh(q, spec.order, inputs.get("buckets"))
            arrays["order.bucket"], slots = found.bucket.numpy(), found.order.numpy()
        self.rows = Rows(spec, sizes, arrays, slots)
        self.turns = any(one.rotations or one.normalized for one in self.branches)
        self.leaves = (q, k)
        made = [self.leaves for _ in self.branches]
        if self.turns:
            self.leaves = (q.detach().double().requires_grad_(), k.detach().double().requires_grad_())
            made = [turned(one, *self.leaves, sizes, self.ready) for one in self.branches]
        self.q, self.k = (torch.stack([of[side][0] for of in made]) for side in (0, 1))
        self.dq: dict[int, Tensor] = {}
        self.dk: dict[int, Tensor] = {}
        self.dv: dict[int, Tensor] = {}
        self.dfloats = {name: torch.zeros_like(t) for name, t in self.floats.items()}

    def head(self, h: int, g: int) -> Tensor:
        """The output of a head; its gradients are added."""
        s = self.sizes
        k, v = (t.detach().double().requires_grad_() for t in (self.k[:, g], self.v[0, g]))
        q, dout = self.q[:, h].detach().double(), self.dout[0, h].double()
        out, dq = torch.zeros(s.n_q, v.shape[1], dtype=torch.float64), torch.zeros_like(q)
        step = block_rows(self.spec, s)
        for rows in (slice(at, min(at + step, b.stop)) for b in self.blocks for at in range(b.start, b.stop, step)):
            part = q[:, rows].clone().requires_grad_()
            found = self._rows(part, k, v, h, rows)
            out[rows] = found.detach()
            names = list(self.floats)
            leaves = [part, k, v, *(self.floats[name] for name in names)]
            if found.requires_grad:
                grads = torch.autograd.grad(found, leaves, dout[rows], allow_unused=True)
                some = [torch.zeros_like(leaf) if x is None else x for leaf, x in zip(leaves, grads, strict=True)]
                dq[:, rows] = some[0]
                self.dk[g] = self.dk.get(g, 0) + some[1]
                self.dv[g] = self.dv.get(g, 0) + some[2]
                for name, more in zip(names, some[3:], strict=True):
                    self.dfloats[name] += more
            self.tick()
        self.dq[h] = dq
        return out

    def gradients(self) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """The gradients of the queries and keys that were given, for the heads and key heads that were looked at."""
        if not self.turns:
            return {h: d.sum(0) for h, d in self.dq.items()}, {g: d.sum(0) for g, d in self.dk.items()}
        seeds = torch.zeros_like(self.q), torch.zeros_like(self.k)
        for seed, known in zip(seeds, (self.dq, self.dk), strict=True):
            for at, value in known.items():
                seed[:, at] = value
        sources = (*self.leaves, *self.floats.values())  # rotations may read these too
        dq, dk, *rest = torch.autograd.grad((self.q, self.k), sources, seeds, materialize_grads=True)
        for name, more in zip(self.floats, rest, strict=True):
            self.dfloats[name] += more
        return {h: dq[0, h] for h in self.dq}, {g: dk[0, g] for g in self.dk}

    def _rows(self, q: Tensor, k: Tensor, v: Tensor, h: int, rows: slice) -> Tensor:
        """The output of a block of rows, differentiable."""
        counts = [torch.from_numpy(np.array(c))[None, None] for c in self.rows.counts(h, 0, rows)]
        block = Block(range(1), range(h, h + 1), np.arange(rows.start, rows.stop))
        each = [[part] for part in counts] if self.spec.composed else [counts]
        parts = [
            dense_block(
                one, q[i, None, None], k[i, None, None], v[None, None], factor, self.ready, own, self.sizes, block
            )
            for i, (one, factor, own) in enumerate(zip(self.branches, self.scales, each, strict=True))
        ]
        if self.spec.composed:
            beside = of_rows(self.spec, parts[0][1], self.sizes, self.ready, block)
            return mixed(parts, *beside, self.spec.detached)[0][0, 0]
        return parts[0][0][0, 0]


def _error(got: Tensor, want: Tensor) -> float:
    if not got.numel():
        return 0.0
    return float((got.double() - want).abs().max() / want.abs().max().clamp_min(1e-30))
