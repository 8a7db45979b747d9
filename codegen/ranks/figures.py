"""What a schedule comes to for vectors of a layer on a machine: balance, bytes, memory and times."""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.codegen.ranks.loads import Loads
from attnspec.codegen.ranks.machines import Machine
from attnspec.codegen.ranks.phases import Layer, keys_held, phases
from attnspec.codegen.ranks.times import Times, times
from attnspec.relation.sizes import Sizes


@dataclass(frozen=True)
class Figures:
    """Those of a schedule.

    ``pairs`` are those of all ranks, heads and batch entries, ``balance`` the largest of a rank over the mean.
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


def figures(loads: Loads, sizes: Sizes, rows: int, layer: Layer, machine: Machine) -> Figures:
    """The figures of a schedule whose ranks have ``rows`` rows each."""
    by_rank = loads.pairs.sum(0)
    pairs, largest = sum(map(int, by_rank)), int(by_rank.max())  # all of them may not fit in 64 bits
    moved = phases(loads, layer)
    return Figures(
        pairs=pairs * layer.batch,
        largest=largest,
        balance=largest * loads.ranks / pairs if pairs else 1.0,
        received=int(moved.received.max()),
        returned=int(phases(loads, layer, backward=True).received.max()),
        messages=int(moved.messages.max()),
        held=rows + -(-int(keys_held(loads).max()) // sizes.kv_heads),
        forward=times(loads, layer, machine),
        backward=times(loads, layer, machine, backward=True),
    )
