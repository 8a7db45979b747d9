"""Patterns of features in which every query sees every key: each rank reads the sum of all ranks' states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attnspec.analysis.carried import Carried, Crossing, by_head
from attnspec.codegen.ranks.states import StateExchange
from attnspec.relation.sizes import Sizes
from attnspec.runtime.distributed.collectives import combined, joined, largest, summed
from attnspec.runtime.distributed.linear_plan import counts_from_all
from attnspec.runtime.distributed.tokens import Tokens, made
from attnspec.runtime.distributed.transport import Transport
from attnspec.runtime.states.call import state_shape
from attnspec.runtime.states.piece import Piece, Results
from attnspec.runtime.states.relative import RelativePiece
from attnspec.spec import expr as e


def largest_of_all(transport: Transport, tokens: Tokens) -> Tensor:
    """The largest entry that features of keys count from, of all ranks, (batch, heads of states)."""
    weights, heads = tokens.spec.weights, (tokens.q if by_head(tokens.spec) else tokens.k).shape[1]
    own = tokens.k.new_full((tokens.k.shape[0], heads), -torch.inf, dtype=tokens.real)
    if tokens.first < tokens.stop:
        asked, _ = tokens.asked(tokens.stop, rows=False, return_state=False, largest=own.new_empty(0))
        found = made(asked, tokens.going or _everything(tokens)).running
        assert found is not None
        own = found.to(tokens.real)
    if any(found.through_max for found in weights.favors):
        return largest(transport, joined(own, *tokens.differentiable))
    return combined(transport, own, lambda of: of.amax(0))


def summed_up(of: StateExchange, transport: Transport, tokens: Tokens) -> Results:
    """The outputs and totals of a rank's rows."""
    spec, count = tokens.spec, tokens.stop - tokens.first
    weights, everything = spec.weights, _everything(tokens)
    (batch, heads, _, dim), kv_heads = tokens.q.shape, tokens.k.shape[1]
    shape = state_shape(spec, batch, heads, kv_heads, weights.features(dim), tokens.v.shape[3])
    own = tokens.q.new_zeros(shape, dtype=tokens.real)
    most_of_all = largest_of_all(transport, tokens) if counts_from_all(spec) else own.new_empty(0)
    if count:
        asked, _ = tokens.asked(tokens.stop, rows=False, largest=most_of_all)
        own = made(asked, everything).after().to(tokens.real)
    own = joined(own, *tokens.differentiable)
    if weights.by_logarithms:
        (most, total), values = own.detach()[..., -2:].unbind(-1), own[..., [*range(own.shape[3] - 2), -1]]
        most = torch.where(total == 0, -torch.inf, most)
        counted = combined(transport, most, lambda x: x.amax(0))
        counted = counted.masked_fill(counted.isneginf(), 0.0)
        values = summed(transport, values * torch.exp(most - counted)[..., None])
        state = torch.cat([values[..., :-1], counted[..., None], values[..., -1:]], -1)
    else:
        state = summed(transport, own)
    if not count:
        out = joined(tokens.q.new_zeros((batch, heads, 0, tokens.v.shape[3])), state)
        whole = weights.divide is not None and not weights.each
        return Results(out, out[..., 0].to(tokens.real) if whole else None, out.new_empty(0))
    asked, _ = tokens.asked(tokens.stop, rows=True, state=state, largest=most_of_all)
    found = made(asked, everything)
    rows: Any = _RelativeRows if isinstance(found, RelativePiece) else _Rows
    out, total_of, _ = rows(**vars(found)).run()
    return Results(out.to(tokens.q.dtype), None if total_of is None else total_of.to(tokens.real), out.new_empty(0))


def _everything(tokens: Tokens) -> Carried:
    batch, heads, kv_heads = *tokens.q.shape[:2], tokens.k.shape[1]
    all_of_it: Any = None
    way = Crossing(None, None, 0, 0, all_of_it)
    return Carried(1, (way,), e.Bool(True), Sizes(1, 1, heads, kv_heads, batch), ())


class _Rows(Piece):
    """Rows that see the state, and nothing besides."""

    def _own(self, a: Tensor, b: Tensor, v: Tensor, past: bool) -> Tensor:
        return v.new_zeros((*a.shape[:3], v.shape[3]))

    def _any(self, heads: int, past: bool) -> Tensor:
        return torch.ones((self.v.shape[0], heads, self.sizes.n_q, 1), dtype=torch.bool, device=self.v.device)


class _None:
    """Sums over no pairs."""

    def largest(self) -> Tensor:
        return self.rows.new_full(self.rows.shape, -torch.inf)

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def totals(self, most: Tensor) -> Tensor:
        return torch.zeros_like(most)

    def attended(self, a: Tensor, v: Tensor, most: Tensor) -> Tensor:
        return v.new_zeros((*a.shape[:3], v.shape[3]))


class _RelativeRows(RelativePiece):
    """The same where features of keys are logarithms."""

    def _own_sums(self, a: Tensor, logs: Tensor) -> Any:
        return _None(a)

    def _any(self, heads: int, past: bool) -> Tensor:
        return torch.ones((self.v.shape[0], heads, self.sizes.n_q, 1), dtype=torch.bool, device=self.v.device)
