"""The sums of a call that goes on from a state, or hands one on, over features that are made.

``state = sum over keys j that are seen later of exp(G_end - G_j) b_j [v_j, 1]^T``, with ``b`` the features of keys and
``G`` the sums of the logarithms of steps. A row i that sees what came before adds ``a_i exp(G_i) @ state`` to its sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.norm import log_of_totals
from attnspec.runtime.core.program import decode
from attnspec.runtime.expressions.real import real, tables
from attnspec.runtime.linear.delta import Earlier, corrected, totals
from attnspec.runtime.linear.each import divisors
from attnspec.runtime.linear.features import axes
from attnspec.runtime.linear.operators import attended
from attnspec.runtime.states.core import CoreSums, undivided
from attnspec.spec.spec import Spec


class Results(NamedTuple):
    """The output, the totals of the weights (batch, heads, n) where they are divided by, and the state."""

    out: Tensor
    total: Tensor | None
    state: Tensor

    @property
    def lse(self) -> Tensor:
        """The logarithm of the totals, minus infinity where a row sees nothing."""
        assert self.total is not None
        return log_of_totals(self.total)


@dataclass(frozen=True, eq=False)
class Piece:
    """A call that goes on, its tensors checked and made ready.

    Features and values are float64 for the target dense, else float32; what is by key has as many heads as the state.
    ``steps`` are the logarithms of steps, float64; ``seen`` says which rows see the state, ``kept`` which keys are in
    the new one and ``stays`` whether the old one is, each (batch or 1, heads or 1, tokens or 1), or None: all are.
    ``itself`` says where a token that comes alone sees itself; ``returns``: a new state is wanted. With ``vectors``, q,
    k and v, turned, kernels map these by themselves, and features of rows or keys are there only if needed. ``running``
    (batch, heads) is the maximum after the call, where features count from one: if it runs it goes into the new state.
    """

    spec: Spec
    program: str
    sizes: Sizes
    inputs: Mapping[str, Tensor]
    given: Mapping[str, Tensor]
    vectors: tuple[Tensor, Tensor, Tensor] | None
    a: Tensor | None
    b: Tensor | None
    v: Tensor
    scale: Any
    steps: Tensor | None
    state: Tensor | None
    seen: Tensor | None
    kept: Tensor | None
    stays: Tensor | None
    itself: Tensor | None
    returns: bool
    running: Tensor | None

    def run(self) -> Results:
        """Outputs and totals of rows, and the new state (else an empty tensor)."""
        v = self._values()
        if self.vectors is not None:
            found, total = self._by_kernels(*self.vectors)
        else:
            assert self.a is not None
            found, total = self._sums(self._chosen(self.a, False), self._with_ones(v), False) * self.scale, None
            if self._whole:
                found, total = found[..., :-1], found[..., -1:]
        if total is not None:
            found = self._divided(found, total, self.a, False)
        state = self._with_maximum(self._after(v)) if self.returns else v.new_empty(0)
        return Results(found, None if total is None else total[..., 0], state)

    def _by_kernels(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
        """Sums of values and, where they are divided, totals (.., 1), by kernels that map vectors by themselves."""
        found, total = attended(undivided(self.program), q, k, v, float(self.scale), self.given)
        if self.state is not None:
            assert self.a is not None
            before = self._before(self.a) * self.scale
            found = found + before[..., : found.shape[3]]
            total = total + before[..., -1] if self._whole else total
        return found, total[..., None] if self._whole else None

    @property
    def _whole(self) -> bool:
        """Whether the sums of rows are divided: then values have one more column, of ones."""
        return self.spec.weights.divide is not None and not self.spec.weights.each

    def after(self) -> Tensor:
        """The new state alone."""
        return self._with_maximum(self._after(self._values()))

    def _with_maximum(self, state: Tensor) -> Tensor:
        """A state with the running maximum behind its values."""
        if self.running is None or not self.spec.weights.running:
            return state
        column, at = self.running[..., None, None].expand(*state.shape[:3], 1), self.v.shape[3]
        return torch.cat([state[..., :at], column.to(state.dtype), state[..., at:]], -1)

    def _values(self) -> Tensor:
        return self.v if self.spec.weights.delta is None else self._corrected()

    def _with_ones(self, v: Tensor) -> Tensor:
        return torch.cat([v, v.new_ones((*v.shape[:3], 1))], -1) if self._whole else v

    def _sums(self, a: Tensor, v: Tensor, past: bool) -> Tensor:
        """Sums of values, weighed by features of rows, over this call and what was before it."""
        assert self.b is not None
        found = self._own(a, self.b, v, past)
        return found if self.state is None else found + self._before(a)[..., : v.shape[3]]

    def _own(self, a: Tensor, b: Tensor, v: Tensor, past: bool) -> Tensor:
        """The same over this call. ``past``: without the pairs of a position with itself."""
        if b.shape[2] == 1:  # a token that comes alone: there is no pair but its own, and no step in it
            if past:
                return v.new_zeros((*a.shape[:3], v.shape[3]))
            groups = a.reshape(a.shape[0], b.shape[1], -1, a.shape[3])
            return masked(((groups @ b.mT) * v).reshape(*a.shape[:3], v.shape[3]), self.itself)
        gates = None if self.steps is None else self.steps[:, : a.shape[1]].to(a.dtype)
        return CoreSums.of(self.program, 0 if gates is None else gates.dim(), past)(a, b, v, gates, self.given)

    def _before(self, a: Tensor) -> Tensor:
        """What rows find in the state, (batch, heads, n, dim_v or one more)."""
        assert self.state is not None
        a, heads = masked(a, self.seen) * self._since(a), self.state.shape[1]
        groups = a.reshape(a.shape[0], heads, a.shape[1] // heads, *a.shape[2:])
        return self._read(groups, self.state.to(a.dtype)).flatten(1, 2)

    def _since(self, a: Tensor) -> Tensor | float:
        """What is left at each row of what was before, (batch, heads, n, 1 or features)."""
        if self.steps is None:
            return 1.0
        logs = self._logs_since(self.steps[:, : a.shape[1]])
        return _factors(logs[:, :, logs.shape[2] - a.shape[2] :], a)

    def _read(self, groups: Tensor, state: Tensor) -> Tensor:
        """Rows (batch, heads of keys, group, n, features) times the states that they see."""
        return groups @ state[:, :, None]

    def _last(self, state: Tensor) -> Tensor:
        """The sums of features that rows see, (batch, heads of keys, n or 1, features)."""
        return state[..., None, :, -1]

    def _summed(self, b: Tensor, v: Tensor) -> Tensor:
        """What features and values of keys add to states."""
        return b.mT @ v

    def _logs_since(self, steps: Tensor) -> Tensor:
        """The sums of steps from what was before up to each row."""
        return steps.cumsum(2)

    def _logs_behind(self, steps: Tensor) -> Tensor:
        """The sums of steps after each key."""
        behind = torch.nn.functional.pad(steps[:, :, 1:].transpose(2, -1), (0, 1)).transpose(2, -1)
        return behind.flip(2).cumsum(2).flip(2)  # from the end on: nothing is subtracted

    def _logs_over(self, steps: Tensor) -> Tensor:
        """The sums of all steps that a state goes through, (its batch, heads, 1 or features)."""
        return steps.sum(2, keepdim=True)

    def _after(self, v: Tensor) -> Tensor:
        """The new state."""
        b = self.b
        assert b is not None
        heads = b.shape[1]
        steps = None if self.steps is None else self.steps[:, :heads]
        b, v = masked(b, self.kept), masked(v, self.kept)
        if steps is not None:  # of keys that stay: others may be no numbers, of which steps have no gradient
            b = b * _factors(self._logs_behind(steps), b)
        if self.spec.weights.divide is not None:
            v = torch.cat([v, v.new_ones((*v.shape[:3], 1))], -1)
        state = self._summed(b, v)
        if self.state is None:
            return state
        old, logs = self.state.to(state.dtype), self.over()
        return state + (old if logs is None else masked(old * logs.exp().to(old.dtype)[..., None], self.stays))

    def over(self) -> Tensor | None:
        """The logarithms of what is left of an older state, (its batch, heads, 1 or features); None where all is."""
        logs = None
        if self.steps is not None:
            logs = self._logs_over(self.steps[:, : self.v.shape[1]])
            logs = logs.squeeze(2) if logs.dim() == 4 else logs
        if self.stays is None:
            return logs
        return (self.v.new_zeros((1, 1, 1)) if logs is None else logs).masked_fill(~self.stays, -torch.inf)

    def _chosen(self, a: Tensor, past: bool) -> Tensor:
        """The features of rows; with ``divide each`` over a divisor of their own."""
        if not self.spec.weights.each:
            return a
        assert self.b is not None
        one = a.new_ones(()).expand(*a.shape[:3], 1)
        total = self._own(one, one[:, : self.b.shape[1]], self.b, past)
        if self.state is not None:
            last = self._last(self.state.to(a.dtype))
            last = last.repeat_interleave(a.shape[1] // last.shape[1], 1) * self._since(a)
            total = total + masked(last, self.seen)
        return self._divided(a, total, a, past)

    def _divided(self, x: Tensor, total: Tensor, a: Tensor | None, past: bool) -> Tensor:
        """``x`` over the divisors of totals (.., 1 or features); 0 where they are 0 or nothing is seen."""
        weights = self.spec.weights
        assert weights.divide is not None
        if weights.divides_by_total:
            return x / total.masked_fill(total == 0, torch.inf)
        seen, mass = self._any(total.shape[1], past), None if a is None else a.sum(-1)
        by = divisors(self.spec, self.sizes, self.inputs, torch.where(seen, total, 1.0), mass)
        return x / torch.where(seen & (by != 0), by, torch.inf)

    def _any(self, heads: int, past: bool) -> Tensor:
        """Which rows see keys, of this call or before it, (batch, heads, n, 1)."""
        with torch.no_grad():
            ones, (batch, kv_heads, n, _) = self.v.new_ones(()), self.v.shape
            n_q = n if past else self.sizes.n_q
            rows, keys = ones.expand(batch, heads, n_q, 1), ones.expand(batch, kv_heads, n, 1)
            found = CoreSums.of(self.program, 0, past)(rows, keys, keys, None, self.given) > 0
        if self.state is None:
            return found
        return torch.ones_like(found) if self.seen is None else found | self.seen[..., None]

    def _corrected(self) -> Tensor:
        """Values less what their keys recall, of the state and of corrected ones: a triangular system."""
        delta, b, v, n = self.spec.weights.delta, self.b, self.v, self.sizes.n
        assert delta is not None
        assert b is not None
        env = {**axes(self.sizes, 3, b.shape[1]), **tables(self.inputs), "k": np.arange(n)}
        beta = real(delta, env, self.inputs, dtype=v.dtype, device=v.device).expand(v.shape[:3])[..., None]
        a = self._chosen(b, True)
        columns = v.shape[3] + self._whole
        old = v.new_zeros(columns) if self.state is None else self._before(a)[..., :columns]
        if n != 1 and decode(self.program).target != "dense":
            return self._corrected_by_kernels(beta, b, old)
        eye = torch.eye(n, dtype=v.dtype, device=v.device)
        recall = self._own(a, b, eye.expand(*v.shape[:2], n, n), True)
        if self._whole:
            total = recall.sum(-1, keepdim=True) + old[..., -1:]
            recall, old = (self._divided(x, total, b, True) for x in (recall, old[..., :-1]))
        system = eye + beta * recall
        return torch.linalg.solve_triangular(system, beta * (v - old), upper=False, unitriangular=True)  # type: ignore[no-any-return]

    def _corrected_by_kernels(self, beta: Tensor, b: Tensor, old: Tensor) -> Tensor:
        """The same; ``old`` is what keys recall of the state."""
        earlier, steps = Earlier.of(self.program, False), self.steps
        inputs, read = [self.inputs[name] for name in earlier.reads], beta
        decay = None if steps is None else steps[:, : b.shape[1]].cumsum(2)
        if self._whole:
            total = totals(earlier, inputs, b, decay)[..., None] + old[..., -1:]
            read, old = self._divided(beta, total, b, True), old[..., :-1]
        return corrected(earlier, inputs, b, beta * self.v - read * old, None, read[..., 0], decay)


def masked(x: Tensor, where: Tensor | None, otherwise: float = 0.0) -> Tensor:
    """Zeros, or another number, in place of the rows that a mask leaves out."""
    return x if where is None else x.masked_fill(~where[..., None], otherwise)


def _factors(logs: Tensor, of: Tensor) -> Tensor:
    """Factors of features, (batch, heads, .., 1 or features), of the dtype of a tensor."""
    found = logs.to(of.dtype).exp()
    return found if logs.dim() == 4 else found[..., None]
