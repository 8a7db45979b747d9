"""What ``attnspec inspect --ranks`` says of patterns whose weights are products of features: ranks exchange states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attnspec.codegen.cost.cost import Cost, cost
from attnspec.codegen.plan.choose import plan
from attnspec.codegen.ranks.machines import Machine
from attnspec.codegen.ranks.plan import written
from attnspec.codegen.ranks.states import StateExchange
from attnspec.relation.relation import Relation
from attnspec.relation.sizes import Sizes, resized
from attnspec.spec.units import plural, quantity, seconds
from attnspec.spec.writing import Shown

_COUNTED = 1 << 15
"""Positions of which operations are counted: of longer sequences they are as many for each position."""


@dataclass(frozen=True)
class StatePlan(Shown):
    """The exchange of states of a call, the most bytes that a rank receives forward, and seconds of both passes.

    ``steps`` are those that follow one another. Nothing of them is hidden: what a rank computes beside its state
    before they are through is not counted on.
    """

    exchange: StateExchange
    machine: Machine
    received: int
    all_keys: int
    steps: int
    forward: float
    backward: float

    @property
    def ranks(self) -> int:
        """How many ranks there are."""
        return self.exchange.shards.ranks

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        found = self.exchange
        names = ("way", "state", "factors", "largest", "lag", "matrices", "over_all")
        return {
            "ranks": self.ranks,
            "machine": self.machine.name,
            "prices": self.machine.origin,
            "shards": found.shards.kind,
            "rows": found.shards.rows,
            "states": {name: getattr(found, name) for name in names},
            "received": self.received,
            "all_gather_bytes": self.all_keys,
            "steps": self.steps,
            "forward": self.forward,
            "backward": self.backward,
        }

    def row(self) -> tuple[str, ...]:
        """The cells of a table over numbers of ranks."""
        return (
            f"{self.ranks:,}",
            f"states, {self.exchange.way}",
            quantity(self.received, "B"),
            plural(self.steps, "step"),
            seconds(self.forward),
            seconds(self.backward),
        )

    def __str__(self) -> str:
        share = f" ({self.received / self.all_keys:.2%} of all keys)" if self.all_keys else ""
        lines = {
            "receives": f"{quantity(self.received, 'B')} a rank at most{share}, in {plural(self.steps, 'step')}",
            "time": f"{seconds(self.forward)} forward, {seconds(self.backward)} backward, nothing hidden",
            "prices": self.machine.origin,
        }
        return written(self.ranks, self.exchange, self.machine, lines)


def state_plan(
    relation: Relation, sizes: Sizes, ranks: int, dim: int, itemsize: int, dtype: str, machine: Machine
) -> StatePlan:
    """The plan by which ranks share a sequence. Raises CannotSplit where they cannot exchange states."""
    exchange = _exchange(relation, sizes, ranks, dim)
    of_key = sizes.batch * sizes.kv_heads * 2 * dim * itemsize
    last = max(0, exchange.active - 1)  # it has most before it
    found = exchange.messages(last)
    received = exchange.received(last, of_key)
    steps = len({(m.part, m.step) for m in found}) if exchange.way != "chain" else last + (exchange.lag > 0)
    sent = received / machine.slowest(ranks) + steps * (machine.message + machine.step)
    one = _cost(relation, sizes, dim, itemsize)
    scale = sizes.n / one.sizes.n / (1 if exchange.way == "chain" else ranks) / machine.flops[dtype]
    forward, backward = (flops * scale + machine.call + sent for flops in (one.flops, one.backward_flops))
    gathered = (ranks - 1) * exchange.shards.rows * of_key
    return StatePlan(exchange, machine, received, gathered, steps, forward, backward)


def _exchange(relation: Relation, sizes: Sizes, ranks: int, dim: int) -> StateExchange:
    from attnspec.codegen.ranks.refused import CannotSplit
    from attnspec.runtime.core.errors import CallError
    from attnspec.runtime.core.program import Program
    from attnspec.runtime.distributed.linear_plan import state_exchange, state_shards

    program = Program.of(str(relation.spec), relation.spec.name, None, {})
    heads = sizes.heads, sizes.kv_heads, sizes.batch
    try:
        return state_exchange(program, state_shards(program, sizes.n, ranks, *heads), *heads, dim, dim)
    except CallError as error:
        raise CannotSplit(str(error)) from None


def _cost(relation: Relation, sizes: Sizes, dim: int, itemsize: int) -> Cost:
    short = sizes if sizes.n <= _COUNTED else resized(relation.spec, sizes, _COUNTED)
    return cost(plan(relation), short, dim, dim, itemsize)
