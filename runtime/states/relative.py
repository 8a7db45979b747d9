"""States where each feature is divided by a sum of its own, and features of keys are exponentials.

Those of keys are there as logarithms, and a state counts from the largest of them: it has one more column, by which it
is to be multiplied, as a logarithm. ``state = [sum over keys j of exp(l_j - most) v_j, most, sum of exp(l_j - most)]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from attnspec.runtime.core.program import decode
from attnspec.runtime.core.request import Call
from attnspec.runtime.linear import channels
from attnspec.runtime.linear.decay import Steps
from attnspec.runtime.linear.each import Divisor
from attnspec.runtime.linear.operators import require_plain
from attnspec.runtime.linear.work import Work
from attnspec.runtime.states.core import CoreSums
from attnspec.runtime.states.packed import PackedPiece
from attnspec.runtime.states.piece import Piece, Results, masked


class _Sums(Protocol):
    """Sums over the pairs of a call, for rows (batch, heads, n, features), relative to the largest logarithms."""

    def largest(self) -> Tensor: ...

    def totals(self, most: Tensor) -> Tensor: ...

    def attended(self, a: Tensor, v: Tensor, most: Tensor) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class _ByKernels:
    call: Call
    logs: Tensor

    def largest(self) -> Tensor:
        return channels.negative(channels.counted_from(self.call, self.logs))

    def totals(self, most: Tensor) -> Tensor:
        return channels.totals(self.call, self.logs, channels.negative(most))

    def attended(self, a: Tensor, v: Tensor, most: Tensor) -> Tensor:
        return channels.attended(self.call, a, self.logs, v, channels.negative(most))


@dataclass(frozen=True, eq=False)
class _ByPairs:
    """``counts`` (batch or 1, heads or 1, n, n); ``steps`` as a piece has them."""

    counts: Tensor
    logs: Tensor
    steps: Tensor | None
    heads: int

    @cached_property
    def pairs(self) -> Tensor:
        """The logarithm of each pair, by feature, (features, batch, heads, n, n)."""
        logs = self.logs.repeat_interleave(self.heads // self.logs.shape[1], 1).movedim(3, 0)[..., None, :]
        if self.steps is not None:
            at = np.arange(self.steps.shape[2])
            logs = logs + Steps(self.steps.cumsum(2), 0).between(at, at).to(logs.dtype)
        return torch.where(self.counts > 0, logs, -torch.inf)

    def largest(self) -> Tensor:
        pairs = torch.nn.functional.pad(self.pairs.detach(), (0, 1), value=-torch.inf)  # there may be none
        return pairs.amax(-1).movedim(0, 3)

    def _weights(self, most: Tensor) -> Tensor:
        return self.counts * torch.exp(self.pairs - _finite(most).movedim(3, 0)[..., None])

    def totals(self, most: Tensor) -> Tensor:
        return self._weights(most).sum(-1).movedim(0, 3)

    def attended(self, a: Tensor, v: Tensor, most: Tensor) -> Tensor:
        weights = (a.movedim(3, 0)[..., None] * self._weights(most)).sum(0)
        return weights @ v.repeat_interleave(self.heads // v.shape[1], 1)


@dataclass(frozen=True, eq=False)
class RelativePiece(Piece):
    """A call whose ``b`` are logarithms of the features of keys; steps are those of all features."""

    def run(self) -> Results:
        """Outputs of rows, and the new state (else an empty tensor)."""
        assert self.a is not None
        assert self.b is not None
        a, own = self.a * self.scale, self._own_sums(self.a, self.b)
        most, total = own.largest(), None
        if self.state is None:
            total = own.totals(most)
        else:
            before = self._by_row(self._counts_from, self.a)
            before = before if self.steps is None else before + self._logs_since(self.steps)[..., None].to(a.dtype)
            before = masked(before.expand(a.shape), self.seen, -torch.inf)
            most = torch.maximum(most, before.detach())
            kept = torch.exp(before - _finite(most))
            total = own.totals(most) + kept * self._by_row(self.state[..., -1].to(a.dtype), self.a)
        divisor = Divisor(self.spec, self.sizes, self.inputs)
        a = divisor.divided(a, total, most, None if divisor.plain else self._any(a.shape[1], False))
        found = own.attended(a, self.v, most)
        if self.state is not None:
            heads = self.state.shape[1]
            groups = (a * kept).reshape(a.shape[0], heads, a.shape[1] // heads, *a.shape[2:])
            found = found + self._read(groups, self.state[..., :-2].to(a.dtype)).flatten(1, 2)
        return Results(found, None, self._after(self.v) if self.returns else self.v.new_empty(0))

    @property
    def _counts_from(self) -> Tensor:
        """What the state counts from; minus infinity where nothing is in it."""
        assert self.state is not None
        most, total = self.state.detach()[..., -2:].unbind(-1)
        return torch.where(total == 0, -torch.inf, most).to(self.v.dtype)

    def _by_row(self, of_states: Tensor, rows: Tensor) -> Tensor:
        """Of states (.., heads of keys, features) those that rows see, (batch, heads, n or 1, features)."""
        found = self._last(of_states[..., None])
        return found.repeat_interleave(rows.shape[1] // found.shape[1], 1)

    def _own_sums(self, a: Tensor, logs: Tensor) -> _Sums:
        n = a.shape[2]
        if n == 1:
            one = torch.ones((1, 1, 1), dtype=torch.bool) if self.itself is None else self.itself
            return _ByPairs(one[..., None].to(a), logs, self.steps, a.shape[1])
        core = CoreSums.of(self.program, 0)
        if decode(self.program).target == "dense":
            return _ByPairs(core.counts(self.sizes, self.given).to(a), logs, self.steps, a.shape[1])
        require_plain(self.program, a)
        vectors, given = (a, logs, self.v), core.read(self.given)
        work = Work.of([*vectors, *given.values()], list(given), 1.0, core.program)
        return _ByKernels(work.call(*vectors), logs)

    def _after(self, v: Tensor) -> Tensor:
        assert self.b is not None
        logs = self.b
        steps = None if self.steps is None else self.steps[:, : logs.shape[1]]
        if steps is not None:
            logs = logs + self._logs_behind(steps)[..., None].to(logs.dtype)
        logs = masked(logs, self.kept, -torch.inf)
        most, old = self._most(logs.detach()), None
        if self.state is not None:
            old, over = self._counts_from, self.over()
            old = old if over is None else old + over.to(old.dtype)
            most = torch.maximum(most, old.detach())
        b = torch.exp(logs - self._last(_finite(most)[..., None]))
        sums = self._summed(b, torch.cat([masked(v, self.kept), v.new_ones((*v.shape[:3], 1))], -1))
        if self.state is not None:
            assert old is not None
            before = self.state[..., [*range(v.shape[3]), -1]].to(sums.dtype)
            sums = sums + before * torch.exp(old - _finite(most))[..., None]
        counted_from = torch.where(most.isneginf(), 0.0, most)
        return torch.cat([sums[..., :-1], counted_from[..., None], sums[..., -1:]], -1)

    def _most(self, logs: Tensor) -> Tensor:
        """The largest for each state, (states, heads of keys, features)."""
        if not logs.shape[2]:
            return logs.new_full((*logs.shape[:2], logs.shape[3]), -torch.inf)
        return logs.amax(2)


@dataclass(frozen=True, eq=False)
class PackedRelativePiece(PackedPiece, RelativePiece):
    """The same of packed documents."""

    def _most(self, logs: Tensor) -> Tensor:
        batch, heads, _, features = logs.shape
        number = self.documents.number[:, None, :, None].expand(batch, heads, -1, features)
        most = logs.new_full((batch, heads, self.documents.count, features), -torch.inf)
        return most.scatter_reduce(2, number, logs, "amax").transpose(1, 2).flatten(0, 1)


def _finite(most: Tensor) -> Tensor:
    return most.masked_fill(most.isneginf(), 0.0)
