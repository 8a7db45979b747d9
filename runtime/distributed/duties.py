"""What one rank of a schedule does, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from attnspec.codegen.ranks.planned import Schedule
from attnspec.codegen.ranks.runs import Runs, count
from attnspec.codegen.ranks.schedule import Item, Message
from attnspec.runtime.distributed.rows import Rows


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
    def of(cls, schedule: Schedule, rank: int) -> Duties:
        """Of a rank of a schedule."""
        steps: list[tuple[list[Item], list[Message], list[Message]]] = [([], [], []) for _ in range(schedule.steps)]
        for item in schedule.items(rank):
            steps[item.step][0].append(item)
        for message in schedule.messages(rank):
            if message.kind != "results":
                steps[message.step][1].append(message)
            elif message.of == "queries":
                steps[message.step][2].append(message)
        shards = schedule.shards
        held = shards.held[rank]
        made = tuple(Step(tuple(items), tuple(inputs), tuple(results)) for items, inputs, results in steps)
        return cls(rank, shards.ranks, shards.n, shards.rows, held, Rows.of(held), made)

    @property
    def padding(self) -> int:
        """The rows behind the positions."""
        return self.length - count(self.held)
