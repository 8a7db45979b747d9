"""Calls of patterns of features over ranks, which exchange states.

Each rank makes the state of its own keys, learns by an exchange what came before them, and goes on from there as a call
with ``state=`` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnspec.codegen.ranks.states import StateExchange
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.program import Program
from attnspec.runtime.core.program import spec as spec_of
from attnspec.runtime.distributed.affine import states_before
from attnspec.runtime.distributed.chain import from_last, passed_on, taken_over
from attnspec.runtime.distributed.collectives import Element, before, joined
from attnspec.runtime.distributed.linear_plan import counts_from_all, going_on
from attnspec.runtime.distributed.linear_sum import largest_of_all, summed_up
from attnspec.runtime.distributed.tokens import Tokens, made
from attnspec.runtime.distributed.transport import Transport
from attnspec.runtime.states.allowed import require_state
from attnspec.runtime.states.call import going_on as attended_from
from attnspec.runtime.states.call import state_shape
from attnspec.runtime.states.documents import Documents
from attnspec.runtime.states.piece import Results


def attended(
    of: StateExchange,
    transport: Transport,
    program: Program,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: Any,
    inputs: Mapping[str, Tensor],
    *,
    return_state: bool = False,
) -> Results:
    """A rank's rows, (batch, heads, rows, dim) as its tensors have them: output, totals, and the state at the end.

    ``inputs`` by position are of all of the sequence, or (but for those that say what a document is) of the rank's
    rows. The output of rows of padding is 0. The state, which all ranks get, is that behind the last position; without
    ``return_state`` it is empty. Raises CallError where there is none.
    """
    spec = spec_of(program)
    going = going_on(program, q.shape[1], k.shape[1], q.shape[0])
    if return_state and require_state(program, q.shape[1], k.shape[1], q.shape[0]).packed is not None:
        raise CallError(f"{spec.name}: each document has a state, of which ranks keep their own: none is returned")
    tokens = Tokens.of(of, transport, program, going, (q, k, v), scale, inputs)
    found = summed_up(of, transport, tokens) if going is None else _Rank(of, transport, tokens).run(return_state)
    more = q.shape[2] - found.out.shape[2]
    out = torch.nn.functional.pad(found.out, (0, 0, 0, more))
    total = None if found.total is None else torch.nn.functional.pad(found.total, (0, more))
    # What a rank's rows do not read has gradients of 0 there, so that all ranks come to sum it up.
    if trained := [t for t in inputs.values() if t.is_floating_point() and t.requires_grad]:
        out, total = joined(out, *trained), None if total is None else joined(total, *trained)
    return Results(out, total, found.state)


@dataclass(frozen=True, eq=False)
class _Rank:
    of: StateExchange
    transport: Transport
    tokens: Tokens

    @property
    def _gives(self) -> bool:
        """Whether there are ranks behind this one."""
        return self.transport.rank < self.of.active - 1

    @property
    def _until(self) -> int:
        """Up to which token this rank's state counts: those that the next one has as keys come behind."""
        return self.of.first(self.transport.rank + 1) if self._gives else self.tokens.first

    def run(self, return_state: bool) -> Results:
        of, tokens = self.of, self.tokens
        largest = largest_of_all(self.transport, tokens) if counts_from_all(tokens.spec) else None
        if of.way == "nothing":
            state = None
        elif of.way == "chain":
            state = taken_over(self.transport, of.active, self._zeros(), tokens.differentiable)
        elif tokens.spec.weights.by_logarithms:
            state = self._relative()
        elif tokens.spec.weights.running:
            state = self._running()
        else:
            own, over = self._own(largest)
            state = self._before(own, self._factor(own, over))
        if state is not None and (same := tokens.continues()) is not None:
            state = state * same
        return self._rows(state, largest, return_state)

    def _rows(self, state: Tensor | None, largest: Tensor | None, return_state: bool) -> Results:
        """The outputs of this rank's rows, which go on from a state."""
        of, tokens, transport = self.of, self.tokens, self.transport
        last = return_state and transport.rank == of.active - 1
        chained = of.way == "chain"
        new = self._zeros()
        if transport.rank >= of.active:
            found = self._no_rows()
        else:
            given = state if tokens.first else None
            passes = chained and self._gives
            asked, packed = tokens.asked(
                tokens.stop, rows=True, state=given, largest=largest, return_state=last or passes
            )
            found = attended_from(asked)
            if last or passes:
                new = found.state if packed is None else packed.at_last(found.state)
        rows = slice(found.out.shape[2] - (tokens.stop - tokens.start), None)
        out, total = found.out[:, :, rows], None if found.total is None else found.total[:, :, rows]
        if state is not None and (not tokens.first or transport.rank >= of.active):
            out = joined(out, state)
            total = None if total is None else joined(total, state)
        if chained:
            results = passed_on(transport, of.active, new, out, *([] if total is None else [total]))
            out, total = results[0], None if total is None else results[1]
        if not return_state:
            return Results(out, total, out.new_empty(0))
        return Results(out, total, from_last(transport, of.active, joined(new, out)))

    def _no_rows(self) -> Results:
        q, v, weights = self.tokens.q, self.tokens.v, self.tokens.spec.weights
        out = joined(q.new_zeros((*q.shape[:2], 0, v.shape[3])), q, *self.tokens.differentiable)
        whole = weights.divide is not None and not weights.each
        return Results(out, out[..., 0].to(self.tokens.real) if whole else None, q.new_empty(0))

    def _zeros(self) -> Tensor:
        tokens = self.tokens
        (batch, heads, _, dim), kv_heads, weights = tokens.q.shape, tokens.k.shape[1], tokens.spec.weights
        shape = state_shape(tokens.spec, batch, heads, kv_heads, weights.features(dim), tokens.v.shape[3])
        return tokens.q.new_zeros(shape, dtype=tokens.real)

    def _before(self, own: Tensor, factor: Tensor | None) -> Tensor:
        """The state before this rank, of those that ranks make for themselves and what becomes of older ones."""
        if self.of.way == "shift":
            factor = None
        return states_before(
            self.transport,
            self.of.active,
            own,
            factor,
            next_only=self.of.way == "shift",
            also=self.tokens.differentiable,
        )

    def _own(self, largest: Tensor | None = None, state: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The state of this rank's keys alone, and the logarithms of what it leaves of an older one; None for all."""
        if self._until <= self.tokens.first:
            return self._zeros() if state is None else state, None
        asked, packed = self.tokens.asked(self._until, rows=False, state=state, largest=largest)
        found = made(asked)
        own, over = found.after().to(self.tokens.real), found.over()
        if packed is not None:
            own = packed.at_last(own)
            over = _whole_document(packed, over, own)
        return own, over

    def _factor(self, own: Tensor, over: Tensor | None) -> Tensor | None:
        """What becomes of an older state, of the size that is sent; None if nothing does."""
        if not self.of.factors:
            return None
        size = self.of.factors // (own.shape[0] * own.shape[1])
        if self.tokens.spec.weights.delta is not None:
            found = self._matrix(own)
        else:
            found = own.new_ones((*own.shape[:2], size, 1))
            found = found if over is None else found * over.exp().to(own.dtype)[..., None]
        same = self.tokens.continues()
        return found if same is None else found * same

    def _matrix(self, own: Tensor) -> Tensor:
        """What the delta rule makes of an older state: of the rows of the unit matrix, where no values are written."""
        eye = torch.eye(own.shape[2], dtype=own.dtype, device=own.device).expand(*own.shape[:3], -1)
        if self._until <= self.tokens.first:
            return eye
        v = self.tokens.v
        none = v.new_zeros(()).expand(*v.shape[:2], self._until - self.tokens.first, own.shape[2])
        asked, packed = self.tokens.asked(self._until, rows=False, state=eye, v=none)
        found = made(asked).after().to(own.dtype)
        return found if packed is None else packed.at_last(found)

    def _relative(self) -> Tensor:
        """Of states that count from a largest logarithm: first where those before each rank do."""
        own, over = self._own()
        (most, total), values = own.detach()[..., -2:].unbind(-1), own[..., [*range(own.shape[3] - 2), -1]]
        most = torch.where(total == 0, -torch.inf, most)
        left = most.new_zeros(most.shape) if over is None else most.new_zeros(()) + over.to(most.dtype)
        left = left.expand(most.shape)
        if (same := self.tokens.continues()) is not None:
            left = left.masked_fill(~same[..., 0], -torch.inf)
        with torch.no_grad():
            found = before(self.transport, self.of.active, (most, left), _later_of_two)
        old = torch.full_like(most, -torch.inf) if found is None else found[0]
        after = torch.maximum(old + left.detach(), most)
        after = after.masked_fill(after.isneginf(), 0.0)
        values = values * torch.exp(most - after)[..., None]
        values = self._before(values, torch.exp(old + left - after)[..., None])
        old = old.masked_fill(old.isneginf(), 0.0)
        return torch.cat([values[..., :-1], old[..., None], values[..., -1:]], -1)

    def _running(self) -> Tensor:
        """Of states whose features count from a running maximum: first that of what came before each rank."""
        tokens, at = self.tokens, self.tokens.v.shape[3]
        zeros = self._zeros()
        if self._until > tokens.first:
            last = made(tokens.asked(self._until, rows=False)[0]).running
            assert last is not None
            last = last.to(zeros.dtype)
        else:
            last = zeros.new_full(zeros.shape[:2], -torch.inf)
        found = before(self.transport, self.of.active, (last.detach(),), lambda a, b: (torch.maximum(a[0], b[0]),))
        begun = None
        if found is not None:
            begun = zeros.clone()
            begun[..., at] = found[0][..., None]
        own, over = self._own(state=begun)
        values = torch.cat([own[..., :at], own[..., at + 1 :]], -1)
        state = self._before(values, self._factor(values, over))
        since = zeros[..., :1] if begun is None else begun[..., at : at + 1]
        return torch.cat([state[..., :at], since, state[..., at:]], -1)


def _later_of_two(earlier: Element, later: Element) -> Element:
    return torch.maximum(earlier[0] + later[1], later[0]), earlier[1] + later[1]


def _whole_document(packed: Documents, over: Tensor | None, own: Tensor) -> Tensor:
    """Of the logarithms for each document those for the first, if it is the last one too: else nothing is left."""
    found = own.new_zeros((own.shape[0], 1, 1)) if over is None else packed.at_last(over)
    alone = (packed.number[:, -1] == 0).reshape(-1, 1, 1)
    return found.masked_fill(~alone, -torch.inf)
