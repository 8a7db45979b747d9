"""Which states ranks exchange for calls of a pattern of features, or why they cannot."""

from __future__ import annotations

import functools
import itertools

import numpy as np

from attnspec.analysis.carried import Carried, by_head
from attnspec.codegen.ranks.shards import Shards, shards
from attnspec.codegen.ranks.states import StateExchange, Way
from attnspec.runtime.core.errors import CallError
from attnspec.runtime.core.program import Program
from attnspec.runtime.core.program import spec as spec_of
from attnspec.runtime.states.allowed import require_state, why_not
from attnspec.spec import expr as e
from attnspec.spec.feature import parts
from attnspec.spec.spec import Spec


def sees_all(spec: Spec) -> bool:
    """Whether every query sees every key."""
    return [branch.pred for branch in spec.branches] == [e.Bool(True)]


def counts_from_all(spec: Spec) -> bool:
    """Whether features of keys count from the largest entry of all of them."""
    return any(found.kernel == "softmax" and found.stable == "all" for found in spec.weights.favors)


@functools.lru_cache(maxsize=64)
def going_on(program: Program, heads: int, kv_heads: int, batch: int) -> Carried | None:
    """How ranks go on from states; None where each sees the sum of all. Raises CallError where they do not."""
    spec = spec_of(program)
    weights, whole = spec.weights, counts_from_all(spec)
    why = ""
    if whole and (weights.by_logarithms or weights.k is None or len(parts(weights.k)) > 1):
        why = "`favor(stable = all)` beside other features, or divided each, counts from the largest of all keys"
    if weights.running and any(found.through_max for found in weights.favors):
        why = "through_max = true asks for the gradient of a running maximum, which only its own rank would get"
    if not spec.mixture and sees_all(spec):
        why = why or why_not(spec, True)
        if weights.decay is not None:
            why = why or "every query sees every key, and what is between the two decays: keys come from both sides"
        if weights.running or weights.delta is not None:
            why = why or "every query sees every key, and features or values depend on those before"
        if why:
            raise CallError(f"{spec.name}: its ranks cannot exchange states: {why}")
        return None
    if why:
        raise CallError(f"{spec.name}: its ranks cannot exchange states: {why}")
    return require_state(program, heads, kv_heads, batch, True, whole)


def cut_of(program: Program, heads: int, kv_heads: int, batch: int) -> int:
    """After multiples of how many positions ranks may begin. Raises CallError where they cannot exchange states."""
    going = going_on(program, heads, kv_heads, batch)
    return 1 if going is None else going.cut


def state_shards(program: Program, n: int, ranks: int, heads: int, kv_heads: int, batch: int) -> Shards:
    """Contiguous shards that begin where the sequence can be cut. Raises CallError where it cannot be."""
    return shards_at(cut_of(program, heads, kv_heads, batch), n, ranks)


def shards_at(cut: int, n: int, ranks: int) -> Shards:
    """Contiguous shards that begin after multiples of so many positions."""
    return shards("contiguous" if cut == 1 else "grid", n, ranks, block=cut)


def state_exchange(
    program: Program, dealt: Shards, heads: int, kv_heads: int, batch: int, dim: int, dim_v: int
) -> StateExchange:
    """What ranks exchange for calls of these sizes. Raises CallError where they cannot, with the reason."""
    spec = spec_of(program)
    going, weights = going_on(program, heads, kv_heads, batch), spec.weights
    rows = [run for runs in dealt.held for run in runs]
    in_order = [run.step == 1 for run in rows] + [a.stop == b.start for a, b in itertools.pairwise(rows)]
    if not all(in_order) or any(len(runs) > 1 for runs in dealt.held):
        raise CallError(f"{spec.name}: ranks that exchange states hold contiguous shards, not {dealt.kind} ones")
    heads_of_state = heads if by_head(spec) else kv_heads
    features, each = weights.features(dim), batch * heads_of_state
    state = each * features * (dim_v + (weights.divide is not None))  # what it counts from goes ahead, once
    if going is None:
        relative = weights.by_logarithms
        largest = each * features if relative else each if counts_from_all(spec) else 0
        return StateExchange(spec.name, dealt, "sum", state, largest=largest, over_all=True)
    if any(run.start % going.cut for run in rows):
        raise CallError(
            f"{spec.name}: ranks that exchange states begin at multiples of {going.cut:,} positions, where the "
            f"sequence can be cut; {dealt} do not"
        )
    found = StateExchange(spec.name, dealt, "nothing", state, lag=going.lag)
    way = _way(spec, going, found)
    if way == "nothing":
        largest = each if counts_from_all(spec) else 0
        return StateExchange(spec.name, dealt, way, state, 0, largest, going.lag, over_all=True)
    factors, largest = 0, 2 * each * features if weights.by_logarithms else 0
    if way == "scan":
        if weights.delta is not None:
            factors = each * features**2
        elif weights.by_logarithms or weights.by_channel:
            factors = each * features
        elif weights.decay is not None or weights.running or going.alike or not _all_stays(going, found):
            factors = each
    if weights.running or counts_from_all(spec):
        largest = each
    return StateExchange(
        spec.name, dealt, way, state, factors, largest, going.lag, weights.delta is not None, counts_from_all(spec)
    )


def _way(spec: Spec, going: Carried, found: StateExchange) -> Way:
    nothing = all(way.key is None for way in going.ways)
    if found.active < 2 or (nothing and not spec.weights.running):
        return "nothing"
    if nothing:
        return "scan"
    if spec.weights.delta is not None and spec.weights.divide is not None:
        return "chain"
    return "scan" if any(bool(going.lasts(np.array([tokens])).any()) for tokens in _lengths(found)) else "shift"


def _all_stays(going: Carried, found: StateExchange) -> bool:
    return all(bool(going.lasts(np.array([tokens])).all()) for tokens in _lengths(found))


def _lengths(found: StateExchange) -> set[int]:
    """How many tokens states go over at ranks that have one before them and one behind them."""
    return {found.first(rank + 1) - found.first(rank) for rank in range(1, found.active - 1)} or {1}
