"""Attention whose weights are products of features, over whole matrices: the definition.

Everything is computed in float64, whatever the element type of a call: weights are not divided by the largest of them,
as softmax's are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.norm import log_of_totals
from attnspec.runtime.dense.softmax import Block, by_row, per_head, without
from attnspec.runtime.expressions.real import real, tables
from attnspec.runtime.linear.decay import Steps, steps
from attnspec.runtime.linear.each import Divisor, divisors
from attnspec.runtime.linear.features import apart, axes, mapped, together
from attnspec.spec.spec import Spec


def dense_linear(
    spec: Spec,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None,
    inputs: Mapping[str, Tensor],
    counts: Tensor,
    sizes: Sizes,
    recalled: Tensor | None = None,
    projection: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The output (batch, heads, n_q, dim_v) and the logarithm of the total weight (batch, heads, n_q), both float64.

    q (batch, heads, n_q, dim) and k (batch, kv_heads, n, dim) are normalized and rotated already, v is (batch,
    kv_heads, n, dim_v); ``inputs`` are those that the lines read, reals in float64. ``counts`` says how often each pair
    counts, (batch, heads, n_q, n); ``recalled``, for ``delta``, how often those do of which both are keys, (batch,
    heads, n, n). ``scale`` is the factor of the weights, None the spec's or 1. A row without pairs, and one whose
    divisor is 0, gives zeros. Without pairs the logarithm is minus infinity; of a negative total it is no number.
    """
    seen = counts > 0
    known = seen.any(-2) if recalled is None else seen.any(-2) | (recalled > 0).any(-2)
    q = clean(spec, q.double(), seen.any(-1))
    k = clean(spec, per_head(k.double(), sizes.heads), known)
    values = without(per_head(v.double(), sizes.heads), known)
    made = Made.of(spec, q, k, inputs, sizes, projection)
    if recalled is not None:
        values = made.corrected(values, recalled)
    factor = scale if scale is not None else 1.0 if spec.scale is None else spec.scale
    weights, total = made.weights(made.q, np.arange(sizes.n_q) + sizes.first, counts, factor)
    return weights @ values, log_of_totals(total)


def clean(spec: Spec, x: Tensor, seen: Tensor) -> Tensor:
    """Vectors with others, of which all maps have features, in place of those that have no part in any pair.

    Zero times the features of these may be no number. Of `favor`, which looks for the largest entry among all vectors,
    only those that are not finite are replaced, by zeros.
    """
    if spec.weights.favors:
        return without(x, seen | x.isfinite().all(-1))
    return x.masked_fill(~seen[..., None], 1.0)


@dataclass(frozen=True, eq=False)
class Made:
    """What the weights of a call are made of: features (batch, heads, .., features) and steps, in float64.

    With a divisor for each feature, features of keys that are exponentials (``by_log``) are there as logarithms too.
    """

    spec: Spec
    inputs: Mapping[str, Tensor]
    sizes: Sizes
    q: Tensor
    k: Tensor
    steps: Steps | None
    logs: Tensor | None = None
    by_log: tuple[bool, ...] = ()

    @classmethod
    def of(
        cls, spec: Spec, q: Tensor, k: Tensor, inputs: Mapping[str, Tensor], sizes: Sizes, projection: Tensor | None
    ) -> Made:
        """Of vectors by query head. Raises CallError where the features of both sides do not fit each other."""
        a, b = (mapped(spec, side, x, inputs, sizes, projection) for side, x in (("q", q), ("k", k)))
        features = together(spec, a.values.shape[-1], b.values.shape[-1])
        of_q, of_k = (x.values.expand(*x.values.shape[:-1], features) for x in (a, b))
        logs: Tensor | None = None
        by_log: tuple[bool, ...] = ()
        if spec.weights.each:
            parts = apart(spec, k, inputs, sizes, projection, features)
            logs = torch.cat([part.values for part in parts], -1)
            by_log = tuple(part.logs for part in parts for _ in range(part.values.shape[-1]))
        made = steps(spec, inputs, sizes, q.device, features, b.gates)
        return cls(spec, inputs, sizes, of_q, of_k, made, logs, by_log)

    def weights(self, a: Tensor, at: NDArray[np.int64], counts: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        """What values are multiplied by, (batch, heads, rows, n), and the total before it is divided by.

        ``a`` are the features of rows (batch, heads, rows, features), ``at`` their positions.
        """
        times, b = counts.to(a.device, torch.float64), self.k
        if not self.spec.weights.each and (self.steps is None or not self.steps.by_channel):
            weights = (a @ b.mT) * (times * self._kept(at, None)) * factor
        else:
            parts = []
            for channel in range(b.shape[-1]):
                a_c, b_c = a[..., channel, None], b[..., channel, None]
                if self.by_log and self.by_log[channel]:
                    kept, most = self._relative(at, channel, times)
                    parts.append(self._divided(a_c, kept.sum(-1, keepdim=True), times, most=most) * kept * factor)
                    continue
                kept = times * self._kept(at, channel)
                if self.spec.weights.each:
                    a_c = self._divided(a_c, kept @ b_c, times)
                parts.append(a_c * b_c.mT * kept * factor)
            weights = torch.stack(parts).sum(0)
        total = weights.sum(-1)
        if self.spec.sink is not None:
            rows = Block(range(self.sizes.batch), range(self.sizes.heads), at - self.sizes.first)
            total = total + torch.exp(by_row(self.spec.sink, total, self.sizes, self.inputs, rows))
        if self.spec.weights.divide is None or self.spec.weights.each:
            return weights, total
        return self._divided(weights, total[..., None], times, a.sum(-1)), total

    def _kept(self, at: NDArray[np.int64], channel: int | None) -> Tensor | float:
        """What is left of the weight of each pair, after all steps between them."""
        return 1.0 if self.steps is None else torch.exp(self.steps.between(at, np.arange(self.sizes.n), channel))

    def _relative(self, at: NDArray[np.int64], channel: int, times: Tensor) -> tuple[Tensor, Tensor]:
        """The weights of a feature, (batch, heads, rows, n), over their largest of a row, and its logarithm."""
        assert self.logs is not None
        logs = self.logs[..., channel][..., None, :]
        if self.steps is not None:
            logs = logs + self.steps.between(at, np.arange(self.sizes.n), channel)
        logs = torch.where(times > 0, logs, -torch.inf)
        most = (
            logs.detach().amax(-1, keepdim=True) if logs.shape[-1] else logs.new_full((*logs.shape[:-1], 1), -torch.inf)
        )
        return times * torch.exp(logs - most.clamp(min=-1e300)), most

    def _divided(
        self, x: Tensor, total: Tensor, times: Tensor, mass: Tensor | None = None, most: Tensor | None = None
    ) -> Tensor:
        """``x`` over the divisor of totals, (batch, heads, rows, 1 or features); 0 where it is 0 or nothing is seen.

        With ``most`` totals are ``exp(most) * total``, and x is multiplied by ``exp(most)``.
        """
        if self.spec.weights.divide is None:
            return x
        if most is not None:
            seen = (times > 0).any(-1, keepdim=True)
            return Divisor(self.spec, self.sizes, self.inputs).divided(x, total, most, seen)
        some = (times > 0).any(-1, keepdim=True) | (self.spec.sink is not None)
        by = divisors(self.spec, self.sizes, self.inputs, torch.where(some, total, 1.0), mass)
        return torch.where(some & (by != 0), x / torch.where(by == 0, 1.0, by), 0.0)

    def corrected(self, values: Tensor, recalled: Tensor) -> Tensor:
        """Values (batch, heads, n, dim_v) less what their keys recall of the corrected ones before."""
        delta, n = self.spec.weights.delta, self.sizes.n
        assert delta is not None
        before = recalled.to(values.device) * ~torch.eye(n, dtype=torch.bool, device=values.device)
        recall, _ = self.weights(self.k, np.arange(n), before, 1.0)
        env = {**axes(self.sizes, 3), **tables(self.inputs), "k": np.arange(n)}
        beta = real(delta, env, self.inputs, dtype=torch.float64, device=values.device)
        beta = beta.expand(*values.shape[:3])[..., None]
        system = torch.eye(n, dtype=torch.float64, device=values.device) + beta * recall
        return torch.linalg.solve_triangular(system, beta * values, upper=False, unitriangular=True)  # type: ignore[no-any-return]
