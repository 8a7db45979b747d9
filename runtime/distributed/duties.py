"""What one rank of a schedule does, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from attnspec.codegen.ranks.runs import Runs, count
from attnspec.codegen.ranks.schedule import Item, Message
from attnspec.codegen.ranks.shards import Shards
from attnspec.runtime.distributed.rows import Rows


class Planned(Protocol):
    """What is read of a schedule."""

    @property
    def shards(self) -> Shards:
        """Who holds what."""
        ...

    @property
    def steps(self) -> int:
        """How many steps there are, step 0 among them."""
        ...

    @property
    def branches(self) -> int:
        """How many branches items are of."""
        ...

    @property
    def digest(self) -> str:
        """What is the same on all ranks if the schedule is."""
        ...

    def items(self, rank: int) -> Sequence[Item]:
        """What a rank computes, in the order of execution."""
        ...

    def messages(self, rank: int) -> Sequence[Message]:
        """What a rank sends or receives, in the order that all ranks agree on."""
        ...


class Step(NamedTuple):
    """Of one step: what is computed, which messages that needs, and which take results home."""

    items: tuple[Item, ...]
    inputs: tuple[Message, ...]
    results: tuple[Message, ...]

    def result_for(self, asker: int, place: int) -> Message:
        """The message in which a rank's results come from where they are computed."""
        return next(m for m in self.results if (m.source, m.target) == (place, asker))


@dataclass(frozen=True, eq=False)
class Duties:
    """Of one rank. ``rows`` says where its positions lie in its tensors, each of ``length`` rows."""

    rank: int
    ranks: int
    n: int
    length: int
    held: Runs
    rows: Rows
    steps: tuple[Step, ...]

    @classmethod
    def of(cls, planned: Planned, rank: int) -> Duties:
        """Of a rank of a schedule."""
        steps: list[tuple[list[Item], list[Message], list[Message]]] = [([], [], []) for _ in range(planned.steps)]
        for item in planned.items(rank):
            steps[item.step][0].append(item)
        for message in planned.messages(rank):
            if message.kind != "results":
                steps[message.step][1].append(message)
            elif message.of == "queries":
                steps[message.step][2].append(message)
        shards = planned.shards
        held = shards.held[rank]
        made = tuple(Step(tuple(items), tuple(inputs), tuple(results)) for items, inputs, results in steps)
        return cls(rank, shards.ranks, shards.n, shards.rows, held, Rows.of(held), made)

    @property
    def padding(self) -> int:
        """The rows behind the positions."""
        return self.length - count(self.held)
