"""What ranks exchange of a pattern whose weights are products of features: states, in place of keys.

A rank's state is the sum over its keys of ``phi(k) v^T``, as what comes after it sees them. Where it is the same
whatever came before, but for what becomes of the old one, all ranks make theirs at once, and a scan over the ranks
gives each what came before it; else they go one after the other.

>>> from attnspec.codegen.ranks.shards import shards
>>> found = StateExchange("linear", shards("contiguous", 64, 4), "scan", state=2 * 8 * 9)
>>> print(found)
linear: contiguous shards of 16 positions; each rank's state of 144 numbers goes to later ones in a scan of 3 steps
>>> [(m.step, m.source, m.target, m.numbers) for m in found.messages(3)]
[(0, 2, 3, 144), (1, 2, 3, 144), (2, 1, 3, 144)]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from attnspec.codegen.ranks.shards import Shards
from attnspec.spec.writing import Shown

Way = Literal["nothing", "shift", "scan", "chain", "sum"]
"""How states travel.

``nothing``: none does; ``shift``: each to the next rank, beyond which nothing of it is seen; ``scan``: all earlier ones
to each rank; ``chain``: each rank makes its own of the one before it; ``sum``: every rank sees the sum of all.
"""


class StateMessage(NamedTuple):
    """So many numbers (of keys: positions) that one rank sends another. Steps count from 0 within a part of a call."""

    part: Literal["keys", "largest", "states"]
    step: int
    source: int
    target: int
    numbers: int


def scan_rounds(active: int) -> list[tuple[int, int]]:
    """The steps of a scan over so many ranks: how far things go, and which is the first to send any.

    >>> scan_rounds(6)
    [(1, 0), (1, 1), (2, 1), (4, 1)]
    """
    found, distance = [(1, 0)] if active > 1 else [], 1
    while distance < active - 1:
        found.append((distance, 1))
        distance *= 2
    return found


@dataclass(frozen=True)
class StateExchange(Shown):
    """The messages of a call of a pattern of features, over contiguous shards.

    ``lag``: each rank needs so many keys of those before its first row, beside a state of the keys before these.
    ``state`` are the numbers of a state (of the whole batch), ``factors`` those that say what becomes of an older one
    (0: all of it is left), ``largest`` those of what exponentials count from, which go ahead of the states.
    ``matrices``: what becomes of an older state is a product with a matrix for each head. ``over_all``: exponentials
    count from the largest of all ranks, not from that of earlier ones.
    """

    name: str
    shards: Shards
    way: Way
    state: int
    factors: int = 0
    largest: int = 0
    lag: int = 0
    matrices: bool = False
    over_all: bool = False

    @property
    def active(self) -> int:
        """How many ranks have positions: those are the first ones."""
        return sum(1 for runs in self.shards.held if runs)

    def span(self, rank: int) -> tuple[int, int]:
        """The first position of a rank, and the one behind its last."""
        runs = self.shards.held[rank]
        return (runs[0].start, runs[0].stop) if runs else (self.shards.n, self.shards.n)

    def first(self, rank: int) -> int:
        """The first position whose key a rank has to have as it is."""
        start, stop = self.span(rank)
        return max(0, start - self.lag) if start < stop else start

    def keys(self, rank: int) -> list[tuple[int, int, int]]:
        """The keys before a rank's own that it needs: (rank that holds them, first, behind the last)."""
        start, low = self.span(rank)[0], self.first(rank)
        spans = [(other, *self.span(other)) for other in range(rank)]
        return [(other, max(low, a), min(start, b)) for other, a, b in spans if max(low, a) < min(start, b)]

    def messages(self, rank: int) -> list[StateMessage]:
        """The messages of a forward pass that a rank sends or receives. Backward, the same go the other way.

        (What exponentials count from has no gradient.)
        """
        found = [
            StateMessage("keys", 0, source, target, stop - start)
            for target in (range(rank, self.active) if self.lag else ())
            for source, start, stop in self.keys(target)
            if rank in (source, target)
        ]
        if self.largest and self.over_all:
            found += self._all_pairs("largest", rank, self.largest)
        elif self.largest:
            found += self._scanned("largest", rank, self.largest)
        if self.way == "sum":
            return found + self._all_pairs("states", rank, self.state)
        if self.way == "chain":
            pairs = [(source, source + 1) for source in (rank - 1, rank) if 0 <= source < self.active - 1]
            return found + [StateMessage("states", source, source, target, self.state) for source, target in pairs]
        if self.way in ("shift", "scan"):
            found += self._scanned("states", rank, self.state + self.factors)
        return found

    def _all_pairs(self, part: Literal["largest", "states"], rank: int, numbers: int) -> list[StateMessage]:
        """Each rank works out a part of the numbers from those of all others, and sends it to all."""
        others, each = [other for other in range(self.shards.ranks) if other != rank], -(-numbers // self.shards.ranks)
        pairs = [pair for other in others for pair in ((rank, other), (other, rank))]
        return [StateMessage(part, step, source, target, each) for step in (0, 1) for source, target in pairs]

    def _scanned(self, part: Literal["largest", "states"], rank: int, numbers: int) -> list[StateMessage]:
        rounds = scan_rounds(self.active)[: 1 if self.way == "shift" and part == "states" else None]
        return [
            StateMessage(part, step, source, source + distance, numbers)
            for step, (distance, first) in enumerate(rounds)
            for source in (rank - distance, rank)
            if first <= source and source + distance < self.active
        ]

    def received(self, rank: int, of_position: int = 0, itemsize: int = 4) -> int:
        """The bytes that a rank receives in a forward pass.

        ``of_position`` are those of a position (keys, values and inputs that come by position, of the whole batch).
        """
        return sum(
            m.numbers * (of_position if m.part == "keys" else itemsize) for m in self.messages(rank) if m.target == rank
        )

    def __str__(self) -> str:
        return f"{self.name}: {self.shards}; {self.travels}"

    @property
    def travels(self) -> str:
        """What is sent, and how."""
        numbers = f"{self.state:,} numbers"
        said = {
            "nothing": "no state is seen by a later rank",
            "shift": f"each rank's state of {numbers} goes to the next",
            "scan": f"each rank's state of {numbers} goes to later ones in a scan of "
            f"{len(scan_rounds(self.active))} steps",
            "chain": f"ranks go one after the other, each on from the state of {numbers} of the one before it",
            "sum": f"each rank's state of {numbers} is summed up over all",
        }[self.way]
        if self.factors and self.way == "scan":
            said += f", with {self.factors:,} that say what becomes of older ones"
        keys = f"; the last {self.lag:,} keys before a rank's own are sent as they are" if self.lag else ""
        return said + keys
