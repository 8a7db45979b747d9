"""What one rank of a schedule does, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from attnspec.codegen.ranks.planned import Schedule
from attnspec.codegen.ranks.runs import Run, Runs, common, count
from attnspec.codegen.ranks.schedule import Item, Message
from attnspec.runtime.distributed.rows import Rows

BLOCKS, FEWEST = 8, 256
"""Rows of others are computed in so many blocks, each of at least so many rows: a block that is through is free."""
SHORT = 16
"""In so many blocks rows are computed that are through after one step."""

Pair = tuple[int, int]


class Step(NamedTuple):
    """Of one step: what is computed, which messages that needs, and which take results home.

    ``own`` are of the rank's own rows. ``of_others`` are of rows of others, by whose they are, in blocks of positions;
    ``blocks`` says which, of every message of rows, by whose they are and who computes.
    """

    own: tuple[Item, ...]
    of_others: Mapping[int, Sequence[Sequence[Item]]]
    inputs: tuple[Message, ...]
    results: tuple[Message, ...]
    blocks: Mapping[Pair, Sequence[Run]]

    @classmethod
    def of(cls, rank: int, items: Sequence[Item], inputs: Sequence[Message], results: Sequence[Message]) -> Step:
        """Of a rank: its items in their order, and its messages."""
        blocks = {(m.source, m.target): _blocks(m) for m in inputs if m.kind == "queries"}
        of_others = {}
        for m in (m for m in results if m.source == rank):
            asked = [item for item in items if item.asker == m.target]
            of_others[m.target] = [_within(block, m, asked) for block in blocks[m.target, rank]]
        own = tuple(item for item in items if item.asker == rank)
        return cls(own, of_others, tuple(inputs), tuple(results), blocks)

    def result_for(self, asker: int, place: int) -> Message:
        """The message in which a rank's results come from where they are computed."""
        return next(m for m in self.results if (m.source, m.target) == (place, asker))


def _blocks(rows: Message) -> list[Run]:
    """The positions of a message of rows, cut in blocks."""
    runs = [run for one in rows.slices for run in one.runs]
    first, last = min(run.start for run in runs), max(run.stop for run in runs)
    size = max(FEWEST, -(-(last - first) // BLOCKS))
    blocks = [Run(start, min(start + size, last)) for start in range(first, last, size)]
    return [block for block in blocks if common(tuple(runs), block)]


def _within(block: Run, results: Message, items: Sequence[Item]) -> list[Item]:
    """Items of a block of rows: of those that travel, which are all that have pairs."""
    return [
        cut
        for item in items
        if (cut := item.within(block)) is not None
        and any(
            common(one.runs, cut.queries)
            for one in results.slices
            if (one.branch, one.heads) == (item.branch, item.heads)
        )
    ]


class Held(NamedTuple):
    """Some positions of a rank, and where they lie in its tensors."""

    run: Run
    rows: slice


@dataclass(frozen=True, eq=False)
class Duties:
    """Of one rank. ``rows`` says where its positions lie in its tensors, each of ``length`` rows.

    ``long`` are those that steps after the first add to, or what others compute; ``short``, in blocks, all others.
    """

    rank: int
    ranks: int
    n: int
    length: int
    held: Runs
    rows: Rows
    steps: tuple[Step, ...]
    long: tuple[Held, ...]
    short: tuple[Held, ...]

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
        made = tuple(Step.of(rank, *of_step) for of_step in steps)
        rows = Rows.of(held)
        return cls(rank, shards.ranks, shards.n, shards.rows, held, rows, made, *_long_and_short(rank, rows, made))

    @property
    def padding(self) -> int:
        """The rows behind the positions."""
        return self.length - count(self.held)


def _long_and_short(rank: int, rows: Rows, steps: Sequence[Step]) -> tuple[tuple[Held, ...], tuple[Held, ...]]:
    later = [item.queries for step in steps[1:] for item in step.own]
    results = [m for step in steps for m in step.results if m.target == rank]
    later += [run for m in results for one in m.slices for run in one.runs]
    size = max(FEWEST, -(-rows.count // SHORT))
    long: list[Held] = []
    short: list[Held] = []
    for run, first in zip(rows.runs, rows.first, strict=True):
        for at in range(0, run.length, size):
            end = min(at + size, run.length)
            block = Run(run.start + at * run.step, run.start + (end - 1) * run.step + 1, run.step)
            if not any(block.meet(other) for other in later):
                short.append(Held(block, slice(first + at, first + end)))
            elif at and long and long[-1].rows.stop == first + at:  # of the same run: one with it
                long[-1] = Held(Run(long[-1].run.start, block.stop, run.step), slice(long[-1].rows.start, first + end))
            else:
                long.append(Held(block, slice(first + at, first + end)))
    return tuple(long), tuple(short)
