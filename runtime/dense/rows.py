"""Weights and scores of some rows of queries in plain PyTorch, without the other rows: for looking at them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.norm import log_of_totals
from attnspec.runtime.core.visible import array
from attnspec.runtime.cpp.merge import mixed
from attnspec.runtime.dense.counts import Rows
from attnspec.runtime.dense.linear import Made
from attnspec.runtime.dense.pairs import past
from attnspec.runtime.dense.softmax import Block, of_rows, per_head, scores_block, together, weigh
from attnspec.runtime.linear.favor import by_branch
from attnspec.runtime.prepare.inputs import prepare
from attnspec.runtime.prepare.order import lsh
from attnspec.runtime.prepare.rotate import turned
from attnspec.spec.spec import Spec


@dataclass(frozen=True, eq=False)
class Scored:
    """A call of which any rows can be looked at: q (batch, heads, n_q, dim) and k (batch, heads, n, dim), rotated.

    Both are float32 (float64 where they were given so), and everything is differentiable. ``branches`` are those of a
    mixture that is computed branch by branch.
    """

    spec: Spec
    q: Tensor
    k: Tensor
    scale: float
    inputs: Mapping[str, Tensor]
    sizes: Sizes
    pairs: Rows
    branches: tuple[Scored, ...] = ()
    made: Made | None = None
    """Of weights that are products of features; values are then corrected by ``correction``, (.., n, n), if any."""
    correction: Tensor | None = None

    @classmethod
    def of(
        cls, spec: Spec, q: Tensor, k: Tensor, scale: float | None, inputs: Mapping[str, Tensor], sizes: Sizes
    ) -> Scored:
        """Of the tensors of a call. Raises CallError where an input does not fit."""
        given = scale
        if scale is None:
            scale = 1.0 / math.sqrt(q.shape[-1]) if spec.scale is None else spec.scale
        real = torch.float64 if q.dtype == torch.float64 else torch.float32
        whole, inputs = inputs, dict(inputs)
        projection = inputs.pop("projection", None) if any(part.favors for part in spec.weighings) else None
        found = prepare(spec, sizes, inputs, real=real, device=q.device)
        arrays = {name: array(t) for name, t in found.items() if not t.is_floating_point()}
        slots = None
        if spec.order is not None:
            sorted_ = lsh(q, spec.order, inputs.get("buckets"))
            arrays["order.bucket"], slots = array(sorted_.bucket), array(sorted_.order)
        q, k = q.to(real), k.to(real)
        pairs = Rows(spec, sizes, arrays, slots)
        if spec.composed:
            _, own = by_branch(spec.parts, whole)
            branches = tuple(cls.of(one, q, k, given, x, sizes) for one, x in zip(spec.parts, own, strict=True))
            return cls(spec, q, k, scale, found, sizes, pairs, branches)
        q, k = turned(spec, q, k, sizes, found)
        k = per_head(k, sizes.heads)
        if not spec.weights.linear:
            return cls(spec, q, k, scale, found, sizes, pairs)
        made = Made.of(spec, q.double(), k.double(), found, sizes, projection)
        recalled = past(spec, sizes, inputs)
        eye = torch.eye(sizes.n, dtype=torch.float64, device=q.device).expand(*k.shape[:3], sizes.n)
        correction = None if recalled is None else made.corrected(eye, recalled)
        factor = given if given is not None else 1.0 if spec.scale is None else spec.scale
        return cls(spec, q, k, factor, found, sizes, pairs, made=made, correction=correction)

    def weights(self, rows: NDArray[np.int64]) -> Tensor:
        """Of each pair, what its value is multiplied by: (batch, heads, rows, n)."""
        return self._weighed(rows)[0]

    def largest(self, rows: NDArray[np.int64]) -> Tensor:
        """The largest score of each row, (batch, heads, rows); minus infinity where it sees nothing."""
        if self.branches:
            return torch.stack([branch.largest(rows) for branch in self.branches]).amax(0)
        scores, _, counts = self._scores(rows)
        scores = scores.masked_fill(counts == 0, float("-inf"))
        return scores.amax(-1) if self.sizes.n else scores.sum(-1) - torch.inf

    def _weighed(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The weights, and the log-sum-exp of each row: of a mixture of branches as if weights were outputs."""
        if self.made is not None:
            a = self.made.q[:, :, torch.from_numpy(rows).to(self.q.device)]
            weights, total = self.made.weights(a, rows + self.sizes.first, self._counts(rows), self.scale)
            weights = weights if self.correction is None else weights @ self.correction
            return weights.to(self.q.dtype), log_of_totals(total).to(self.q.dtype)
        if not self.branches:
            scores, sink, counts = self._scores(rows)
            return weigh(scores, counts, sink)
        parts, s = [branch._weighed(rows) for branch in self.branches], self.sizes
        block = Block(range(s.batch), range(s.heads), rows)
        return mixed(parts, *of_rows(self.spec, parts[0][1], s, self.inputs, block), self.spec.detached)

    def _scores(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor | None, Tensor]:
        s, counts = self.sizes, self._each(rows)
        if not s.batch:
            return self.q.new_empty(counts[0].shape), None, counts[0]
        block = Block(range(s.batch), range(s.heads), rows)
        q = self.q[:, :, torch.from_numpy(rows).to(self.q.device)]
        scores, sink = scores_block(self.spec, q, self.k, self.scale, self.inputs, counts, s, block)
        return scores, sink, together(counts)

    def _counts(self, rows: NDArray[np.int64]) -> Tensor:
        """How often each pair of some rows counts, (batch, heads, rows, n)."""
        return together(self._each(rows))

    def _each(self, rows: NDArray[np.int64]) -> list[Tensor]:
        """The same in each branch that is not told apart."""
        s = self.sizes
        shape = (s.batch, s.heads, len(rows), s.n)
        if not s.batch:
            return [self.q.new_empty(shape)]
        entries, heads = range(s.batch if self.pairs.reads("b") else 1), range(s.heads if self.pairs.reads("h") else 1)
        branches = zip(*(self.pairs.counts(h, b, rows) for b in entries for h in heads), strict=True)
        return [
            torch.from_numpy(np.stack(parts)).view(len(entries), len(heads), *shape[2:]).to(self.q.device).expand(shape)
            for parts in branches
        ]
