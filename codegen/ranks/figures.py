"""What a schedule comes to for vectors of a layer on a machine: balance, bytes, memory and times."""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.codegen.ranks.exact import total
from attnspec.codegen.ranks.loads import loads
from attnspec.codegen.ranks.machines import Machine
from attnspec.codegen.ranks.phases import keys_held, messages
from attnspec.codegen.ranks.planned import Schedule
from attnspec.codegen.ranks.times import Times, times


@dataclass(frozen=True)
class Figures:
    """Those of a schedule.

    ``pairs`` are those of all ranks, heads and batch entries, ``largest`` those of the rank with most, of one batch
    entry, ``balance`` that over the mean.
    ``received`` and ``returned`` are the most bytes that a rank receives forward and in backward, ``messages`` the most
    that it receives forward, and ``held`` the most positions of which it holds keys at a time.
    """

    pairs: int
    largest: int
    balance: float
    received: int
    returned: int
    messages: int
    held: int
    forward: Times
    backward: Times

    @property
    def seconds(self) -> float:
        """Of forward and backward."""
        return self.forward.seconds + self.backward.seconds


def figures(plan: Schedule, machine: Machine, dtype: str) -> Figures:
    """The figures of a schedule on a machine."""
    work, made = loads(plan), plan.traffic
    pairs, largest = total(plan.work), int(plan.work.max())
    return Figures(
        pairs=pairs * plan.sizes.batch,
        largest=largest,
        balance=largest * plan.ranks / pairs if pairs else 1.0,
        received=int(plan.received().max()),
        returned=int(plan.received(backward=True).max()),
        messages=int(messages(made, plan.ranks).max()),
        held=plan.shards.rows + -(-int(keys_held(made, plan.ranks).max()) // plan.sizes.kv_heads),
        forward=times(work, made, plan.widths, machine, dtype),
        backward=times(work, made, plan.widths, machine, dtype, backward=True),
    )
