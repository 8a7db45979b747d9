"""Sequences over simulated ranks that exchange states, and what asserts that they give what one device gives."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

import attnspec
from attnspec.codegen.ranks.states import StateExchange
from attnspec.runtime.attention import Attention
from attnspec.runtime.bench.ranks.transport import Counting
from attnspec.runtime.distributed.linear import attended
from attnspec.runtime.distributed.linear_plan import state_exchange, state_shards
from tests.support.oracle import tensors
from tests.support.ranks import Simulated, simulate
from tests.support.states import BATCH, DIM, HEADS, KV_HEADS, Given, near


class Whole(NamedTuple):
    """A call on one device: what it is of, what it gives, and the gradients of these."""

    attend: Attention
    vectors: list[Tensor]
    inputs: dict[str, Tensor]
    results: list[Tensor]
    upstream: list[Tensor]
    gradients: list[Tensor]
    totals: bool
    state: bool


def on_one(text: str, inputs: Given, n: int, target: str, dtype: torch.dtype, *, state: bool) -> Whole:
    """A call with the log-sum-exp, where there is one, and the state, if wanted."""
    attend = attnspec.compile(text, target=target)
    vectors = [t.detach().to(dtype).requires_grad_() for t in tensors(n, n, HEADS, KV_HEADS, BATCH, DIM, 5)]
    given = {name: t.detach().to(dtype).requires_grad_() if t.is_floating_point() else t for name, t in inputs.items()}
    weights = attend.spec.weights
    totals = weights.divides_by_total and weights.never_negative
    more: dict[str, Any] = {"return_state": True} if state else {}
    found = attend(*vectors, inputs=given, return_lse=totals, **more)
    results = list(found) if isinstance(found, tuple) else [found]
    upstream = [torch.randn(x.shape).to(x.dtype) for x in results]
    sources = [*vectors, *(t for t in given.values() if t.is_floating_point())]
    pairs = [(x.masked_fill(x.isneginf(), 0.0), d) for x, d in zip(results, upstream, strict=True)]
    gradients = torch.autograd.grad([x for x, _ in pairs], sources, [d for _, d in pairs], materialize_grads=True)
    return Whole(attend, vectors, given, results, upstream, list(gradients), totals, state)


def _axis(whole: Whole, name: str) -> int | None:
    declared = next(one for one in whole.attend.spec.inputs if one.name == name)
    return next((axis for axis, size in enumerate(map(str, declared.sizes)) if size == "n"), None)


def _shard(t: Tensor, axis: int, of: StateExchange, rank: int) -> Tensor:
    """A rank's rows; those of padding hold large numbers, which nothing may see."""
    start, stop = of.span(rank)
    own = t.detach().narrow(axis, start, stop - start)
    shape = (*own.shape[:axis], of.shards.rows - (stop - start), *own.shape[axis + 1 :])
    return torch.cat([own, own.new_full(shape, 50.0)], axis).requires_grad_()


def _joined(shards: list[Tensor], axis: int, of: StateExchange) -> Tensor:
    spans = [of.span(rank) for rank in range(of.shards.ranks)]
    return torch.cat([t.narrow(axis, 0, b - a) for t, (a, b) in zip(shards, spans, strict=True)], axis)


def exchange_of(whole: Whole, ranks: int) -> StateExchange:
    """What ranks exchange for it."""
    program, n = whole.attend.program, whole.vectors[0].shape[2]
    shards = state_shards(program, n, ranks, HEADS, KV_HEADS, BATCH)
    return state_exchange(program, shards, HEADS, KV_HEADS, BATCH, DIM, 5)


def over_ranks(whole: Whole, ranks: int, tolerance: tuple[float, float], seed: int = 0, *, shared: bool = True) -> None:
    """Assert that ranks give what one device gives: outputs, log-sum-exps, state, all gradients, in the bytes planned.

    ``shared``: float inputs by position come in shards.
    """
    of = exchange_of(whole, ranks)
    floats = [name for name, t in whole.inputs.items() if t.is_floating_point()]
    axes = {name: _axis(whole, name) if shared else None for name in floats}

    def one(transport: Simulated) -> tuple[list[Tensor], list[Tensor], int]:
        rank = transport.rank
        vectors = [_shard(t, 2, of, rank) for t in whole.vectors]
        given = dict(whole.inputs)
        for name, axis in axes.items():
            t = given[name]
            given[name] = t.detach().requires_grad_() if axis is None else _shard(t, axis, of, rank)
        counted = Counting(transport)
        found = attended(of, counted, whole.attend.program, *vectors, None, given, return_state=whole.state)
        sent = counted.sent
        start, stop = of.span(rank)
        results = [found.out, *([found.lse] if whole.totals else []), *([found.state] if whole.state else [])]
        pairs = []
        for number, (x, d) in enumerate(zip(results, whole.upstream, strict=True)):
            by_row = number < 1 + whole.totals
            x = x.narrow(2, 0, stop - start) if by_row else x
            d = d.narrow(2, start, stop - start) if by_row else d / ranks
            pairs.append((x.masked_fill(x.isneginf(), 0.0), d))
        sources = [*vectors, *(given[name] for name in floats)]
        gradients = torch.autograd.grad([x for x, _ in pairs], sources, [d for _, d in pairs], materialize_grads=True)
        return [x.detach() for x in results], list(gradients), sent

    ran = simulate(ranks, one, seed).results
    for number, want in enumerate(whole.results):
        parts = [results[number] for results, *_ in ran]
        if number < 1 + whole.totals:
            near(f"result {number}", *_finite(_joined(parts, 2, of), want), tolerance[0])
        else:
            for part in parts:
                near("state", part, want, tolerance[0])
    names = ["q", "k", "v", *floats]
    for number, (name, want) in enumerate(zip(names, whole.gradients, strict=True)):
        parts = [gradients[number] for _, gradients, _ in ran]
        axis = 2 if number < 3 else axes[name]
        near(f"d{name}", _joined(parts, axis, of) if axis is not None else sum(parts), want, tolerance[1])  # type: ignore[arg-type]
    size = whole.vectors[0].element_size()
    by_position = BATCH * KV_HEADS * (DIM + 5) * size
    by_position += sum(
        whole.inputs[name].numel() // whole.inputs[name].shape[axis] * size  # type: ignore[index]
        for name in floats
        if (axis := axes[name]) is not None
    )
    for rank, (results, _, sent) in enumerate(ran):
        planned = sum(
            m.numbers * (by_position if m.part == "keys" else max(4, size))
            for m in of.messages(rank)
            if m.source == rank
        )
        if whole.state and rank == of.active - 1:
            planned += (ranks - 1) * results[-1].numel() * max(4, size)
        assert sent == planned


def _finite(got: Tensor, want: Tensor) -> tuple[Tensor, Tensor]:
    assert torch.equal(got.isneginf(), want.isneginf())
    return got.masked_fill(got.isneginf(), 0.0), want.masked_fill(want.isneginf(), 0.0)
