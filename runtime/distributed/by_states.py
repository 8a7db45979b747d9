"""An attention over a group of ranks in which weights, or those of branches, are products of features.

Such branches exchange states (:mod:`attnspec.runtime.distributed.linear`), those of softmax beside them keys, over the
same shards.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from math import lcm

import torch
from torch import Tensor

from attnspec.codegen.ranks.planned import Schedule
from attnspec.codegen.ranks.shards import Shards
from attnspec.codegen.ranks.states import StateExchange
from attnspec.runtime import attend as around
from attnspec.runtime.attention import Attention
from attnspec.runtime.core.arguments import check_call
from attnspec.runtime.cpp.merge import mixed
from attnspec.runtime.distributed import operator
from attnspec.runtime.distributed.collectives import joined
from attnspec.runtime.distributed.in_order import InOrder, Vectors
from attnspec.runtime.distributed.inputs import unsharded, whole_inputs
from attnspec.runtime.distributed.linear import attended
from attnspec.runtime.distributed.linear_plan import cut_of, going_on, shards_at, state_exchange
from attnspec.runtime.distributed.planning import Asked, scheduled
from attnspec.runtime.distributed.spread import Spread
from attnspec.runtime.distributed.tokens import documents_of, rows_of_inputs
from attnspec.runtime.distributed.transport import Transport
from attnspec.runtime.linear.favor import by_branch
from attnspec.runtime.operators import keeps
from attnspec.runtime.prepare.inputs import check
from attnspec.runtime.states.mixture import by_row
from attnspec.spec.real import RealExpr
from attnspec.spec.writing import Shown


def by_states(attend: Attention) -> bool:
    """Whether weights, or those of a branch, are products of features."""
    return any(branch.spec.weights.linear for branch in (attend, *_branches(attend)))


def _branches(attend: Attention) -> tuple[Attention, ...]:
    return tuple(attend.branches) if attend._facts.composed else (attend,)


@dataclass(frozen=True, eq=False)
class StatePlan(Shown):
    """What each branch exchanges, over the same shards: states, or keys where it is softmax."""

    name: str
    shards: Shards
    branches: tuple[StateExchange | Schedule, ...]

    @cached_property
    def digest(self) -> str:
        """What is the same on all ranks if the plan is."""
        parts = [one.digest if isinstance(one, Schedule) else repr(one) for one in self.branches]
        return sha256("\n".join([self.name, str(self.shards), *parts]).encode()).hexdigest()[:16]

    def span(self, rank: int) -> tuple[int, int]:
        """The first position of a rank, and how many it has."""
        held = self.shards.held[rank]
        return (held[0].start, held[0].stop - held[0].start) if held else (self.shards.n, 0)

    def __str__(self) -> str:
        if len(self.branches) == 1:
            return str(self.branches[0])
        said = [f"branch {number}: {_said(one)}" for number, one in enumerate(self.branches)]
        return "\n".join([f"{self.name}: {self.shards}", *said])


def _said(one: StateExchange | Schedule) -> str:
    if isinstance(one, StateExchange):
        return one.travels
    return f"keys and queries, at most {int(one.received().max()):,} bytes to a rank, in {one.steps} steps"


@dataclass(eq=False)
class _Fixed(Spread):
    """A branch of softmax over shards that others chose."""

    dealt: dict[int, Shards] = field(default_factory=dict)
    _schedules: dict[int, Schedule] = field(default_factory=dict)

    def schedule(self, n: int) -> Schedule:
        """What ranks do."""
        if n not in self._schedules:
            self._schedules[n] = scheduled(self.attend, self.dealt[n], self.asked)
        return self._schedules[n]


_NUMBERS = itertools.count()


class StateSpread(InOrder):
    """One rank's view of it."""

    def __init__(self, attend: Attention, transport: Transport, asked: Asked) -> None:
        """Raises CallError where ranks cannot exchange states, with the reason."""
        super().__init__(attend, transport, asked, "ranks that exchange states")
        self.branches = _branches(attend)
        self._plans: dict[tuple[int, int], StatePlan] = {}
        self._dealt: dict[int, Shards] = {}
        self._softmax: dict[int, tuple[_Fixed, str]] = {}
        group = str(getattr(transport, "name", f"transport {id(transport)}"))
        for number, one in enumerate(self.branches):
            if not one.spec.weights.linear:
                spread = _Fixed(one, transport, asked, dealt=self._dealt)
                own = f"{group}, branch {number} of {next(_NUMBERS)}"
                self._softmax[number] = spread, operator.registered(spread, own)[0]
        sizes = asked.heads, asked.kv_heads, asked.batch
        self._cut = lcm(*(cut_of(one.program, *sizes) for one in self.branches if one.spec.weights.linear))

    def planned(self, n: int, batch: int | None = None) -> StatePlan:
        """What is planned for sequences of length n: the same on all ranks."""
        asked = self.asked
        key = n, asked.batch if batch is None else batch
        if key not in self._plans:
            dealt = self._dealt.setdefault(n, shards_at(self._cut, n, self.transport.ranks))
            sizes = asked.heads, asked.kv_heads, key[1], asked.dim, asked.dim_v
            found = tuple(
                self._softmax[number][0].schedule(n)
                if number in self._softmax
                else state_exchange(one.program, dealt, *sizes)
                for number, one in enumerate(self.branches)
            )
            self._plans[key] = StatePlan(self.name, dealt, found)
        return self._plans[key]

    def shards(self, n: int) -> Shards:
        """Who holds what."""
        return self.planned(n).shards

    def sent(self, inputs: Mapping[str, Tensor], n: int) -> tuple[int, int]:
        """The bytes that this rank sends in a call with these inputs, forward and backward; sums of gradients left out.

        Inputs are whole. With documents ranks tell each other in each call that theirs are the same.
        """
        asked, rank, forward, backward = self.asked, self.transport.rank, 0, 0
        by_position = asked.batch * asked.kv_heads * (asked.dim + asked.dim_v) * asked.itemsize
        for number, one in enumerate(self.planned(n).branches):
            if isinstance(one, Schedule):
                there, back = self._softmax[number][0].sent(inputs, n)
                forward, backward = forward + there, backward + back
                continue
            for m in one.messages(rank):
                size = m.numbers * (by_position if m.part == "keys" else 4)
                forward += size * (m.source == rank)
                backward += size * (m.target == rank) * (m.part != "largest")
        documents = len(self.documents & inputs.keys())
        return forward + 8 * (documents + 1) * (documents > 0) * (self.transport.ranks - 1), backward

    def results(
        self, vectors: Vectors, scale: float | None, given: Mapping[str, Tensor], n: int, return_lse: bool
    ) -> tuple[Tensor, Tensor]:
        """What :meth:`call` returns."""
        q, spec, transport = vectors[0], self.attend.spec, self.transport
        around.check_results(spec, scale, return_lse, False)
        check_call(self.name, self.attend._target, self.attend._kinds, *vectors)
        self.asked.check(self.name, *vectors)
        plan = self.planned(n, q.shape[0])
        beside, own_inputs = by_branch([one.spec for one in self.branches], given)
        if len(self.branches) > 1:  # a single pattern's call looks by itself
            check(spec, None, beside, q.device)
        self._agree(vectors, scale, given, n, plan.digest, *sorted(self.documents & given.keys()))
        parts: list[tuple[Tensor, Tensor]] = []
        for number, (one, mine) in enumerate(zip(self.branches, own_inputs, strict=True)):
            exchange = plan.branches[number]
            if len(self.branches) > 1:
                names = {declared.name for declared in one.spec.inputs} | {"projection"}
                mine = {name: t for name, t in mine.items() if name in names}
            if not isinstance(exchange, StateExchange):
                parts.append(self.by_keys(number, vectors, scale, mine, n))
                continue
            local = [name for name in mine if name not in self.documents]
            held = whole_inputs(one.spec, transport, plan.shards, mine, as_they_are=local)
            found = attended(exchange, transport, one.program, *vectors, scale, held)
            nothing = q.new_full(q.shape[:3], torch.nan, dtype=torch.float32)
            parts.append((found.out, nothing if found.total is None else found.lse))
        if len(self.branches) == 1:
            return parts[0]
        start, count = plan.span(transport.rank)
        names = {declared.name for declared in spec.inputs}
        read = whole_inputs(spec, transport, plan.shards, {name: t for name, t in beside.items() if name in names})
        here = rows_of_inputs(spec, read, n, start, count)
        short = [t.narrow(2, 0, count) for t in vectors[:2]]

        def of_rows(line: RealExpr) -> Tensor:
            found = by_row(spec, line, short[0], short[1], here, start).expand(-1, -1, count)
            return torch.nn.functional.pad(found, (0, plan.shards.rows - count))

        shares = [of_rows(one.share) for one in spec.mixture if one.share is not None]
        sink = None if shares or spec.sink is None else of_rows(spec.sink)
        out, lse = mixed(parts, shares, sink, spec.detached)
        # Rows that read an input with no line (of the first segment, say) sum its gradients with the others too.
        trained = [t for t in read.values() if t.requires_grad]
        return joined(out, *trained), lse if shares else joined(lse, *trained)

    @cached_property
    def documents(self) -> set[str]:
        """The inputs that say in which document a position is."""
        sizes = self.asked.heads, self.asked.kv_heads, self.asked.batch
        linear = [one.program for one in self.branches if one.spec.weights.linear]
        return {name for program in linear for name in documents_of(going_on(program, *sizes))}

    def by_keys(
        self, number: int, vectors: Vectors, scale: float | None, given: Mapping[str, Tensor], n: int
    ) -> tuple[Tensor, Tensor]:
        """A branch of softmax."""
        spread, encoded = self._softmax[number]
        held = unsharded(spread.attend.spec, self.transport, self.shards(n), given)
        tensors = [*vectors, *held.values()]
        found = operator.attend_parallel(tensors, list(held), scale, encoded, n, keeps(*tensors))
        return found[0], found[1]
