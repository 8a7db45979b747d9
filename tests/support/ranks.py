"""Ranks as threads of one process, whose messages are delayed and reordered: what is wrong between ranks shows here.

>>> def ring(transport):
...     right, left = (transport.rank + 1) % 3, (transport.rank - 1) % 3
...     mine = torch.tensor([transport.rank])
...     here = torch.empty_like(mine)
...     transport.post([Sent(right, mine)], [Expected(left, here)]).wait()
...     return int(here)
>>> simulate(3, ring).results
[2, 0, 1]
"""

from __future__ import annotations

import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from attnspec.runtime.distributed.transport import Expected, Sent

T = TypeVar("T")
Pair = tuple[int, int]


class Stuck(Exception):
    """Ranks wait for each other, or for one that is gone."""


@dataclass(eq=False)
class _Letter:
    """The number-th message from a rank to another: both have to come to it before it is delivered."""

    source: int
    target: int
    number: int
    sent: Tensor | None = None
    as_posted: bytes | None = None
    expected: Expected | None = None
    delivered: bool = False

    def __str__(self) -> str:
        missing = "not sent" if self.sent is None else "not expected" if self.expected is None else "on its way"
        return f"message {self.number} from rank {self.source} to rank {self.target} ({missing})"

    def deliver(self) -> None:
        """Copy what lies in the sender's buffer now: it must be what it posted."""
        assert self.sent is not None
        assert self.expected is not None
        if _bytes(self.sent).numpy().tobytes() != self.as_posted:
            raise AssertionError(f"{self}: rank {self.source} wrote to its buffer before it was out")
        sent, wants = self.sent.detach(), self.expected.tensor
        if (sent.shape, sent.dtype) != (wants.shape, wants.dtype):
            raise AssertionError(
                f"{self}: {tuple(sent.shape)} {sent.dtype} was sent, and {tuple(wants.shape)} {wants.dtype} expected"
            )
        with torch.inference_mode():  # so may the rank that waits be
            wants.copy_(sent)
        self.delivered, self.sent, self.as_posted, self.expected = True, None, None, None


_NOT_HERE = 0xAB
"""The bytes of what is expected until it is delivered: who reads it before has wrong results."""


def _bytes(t: Tensor) -> Tensor:
    return t.detach().reshape(-1).view(torch.uint8)


@dataclass(eq=False)
class _Batch:
    """What a rank posted at once."""

    sends: list[_Letter]
    receives: list[_Letter]

    @property
    def done(self) -> bool:
        return all(letter.delivered for letter in (*self.sends, *self.receives))


@dataclass(eq=False)
class _Rank:
    rank: int
    baton: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    waits: _Batch | None = None
    finished: bool = False
    batches: list[_Batch] = field(default_factory=list)


class _World:
    """One rank runs at a time. Who is next, and which message is delivered when, follows from a seed."""

    def __init__(self, ranks: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.ranks = [_Rank(rank) for rank in range(ranks)]
        self.letters: dict[tuple[int, int, int], _Letter] = {}
        self.numbers: dict[str, Counter[Pair]] = defaultdict(Counter)
        self.bytes: Counter[Pair] = Counter()
        self.errors: list[BaseException] = []
        # NCCL works on what a rank posts one batch after another, gloo on all of it at once.
        self.in_order = self.random.random() < 0.5
        self.lateness = self.random.choice([0.1, 1.0, 10.0])
        self.stuck: str | None = None
        self.all_done = threading.Event()

    def letter(self, side: str, source: int, target: int) -> _Letter:
        number = self.numbers[side][source, target]
        self.numbers[side][source, target] += 1
        key = source, target, number
        return self.letters.setdefault(key, _Letter(*key))

    def deliverable(self) -> list[_Letter]:
        found = [x for x in self.letters.values() if x.sent is not None and x.expected is not None]
        if not self.in_order:
            return found
        current = [next((b for b in rank.batches if not b.done), None) for rank in self.ranks]
        batches = [b for b in current if b is not None]
        sending = {id(x) for b in batches for x in b.sends}
        receiving = {id(x) for b in batches for x in b.receives}
        return [x for x in found if id(x) in sending and id(x) in receiving]

    def next_rank(self) -> _Rank | None:
        """Deliver some messages, and say who runs; None if all are finished. Raises Stuck."""
        while True:
            ready = [r for r in self.ranks if not r.finished and (r.waits is None or r.waits.done)]
            letters = self.deliverable()
            if not ready and not letters:
                if waiting := [r for r in self.ranks if not r.finished]:
                    raise Stuck("; ".join(map(_said, waiting)))
                return None
            if letters and (not ready or self.random.random() * self.lateness < 0.5):
                letter = self.random.choice(letters)
                letter.deliver()
                del self.letters[letter.source, letter.target, letter.number]
            else:
                return self.random.choice(ready)

    def switch(self, rank: _Rank) -> None:
        """Let another one run, until it is this rank's turn again."""
        self.hand_on()
        rank.baton.acquire()
        if self.stuck is not None and (rank.waits is not None and not rank.waits.done):
            raise Stuck(self.stuck)

    def hand_on(self) -> None:
        try:
            following = self.next_rank()
        except Exception as error:  # of ranks together: all that wait hear of it
            self.stuck = str(error)
            if not isinstance(error, Stuck):
                self.errors.append(error)
            following = next((r for r in self.ranks if not r.finished), None)
        if following is None:
            self.all_done.set()
        else:
            following.baton.release()


def _said(rank: _Rank) -> str:
    assert rank.waits is not None
    missing = [str(x) for x in (*rank.waits.receives, *rank.waits.sends) if not x.delivered]
    return f"rank {rank.rank} waits for {', '.join(missing)}"


class Simulated:
    """The messages of one rank: a Transport."""

    def __init__(self, world: _World, rank: int) -> None:
        self._world, self._me = world, world.ranks[rank]
        self.rank, self.ranks = rank, len(world.ranks)
        self.name = f"simulated {id(world)} {rank}"

    def post(self, sent: Sequence[Sent], expected: Sequence[Expected]) -> _Pending:
        """Begin with the messages of one step."""
        world, sends, receives = self._world, [], []
        for one in sent:
            assert one.tensor.is_contiguous(), "only contiguous tensors are sent"
            assert one.target != self.rank, "a rank sends nothing to itself"
            letter = world.letter("sent", self.rank, one.target)
            letter.sent, letter.as_posted = one.tensor, _bytes(one.tensor).numpy().tobytes()
            world.bytes[self.rank, one.target] += one.tensor.numel() * one.tensor.element_size()
            sends.append(letter)
        for wanted in expected:
            letter = world.letter("expected", wanted.source, self.rank)
            assert wanted.tensor.is_contiguous(), "what comes is written to contiguous tensors"
            _bytes(wanted.tensor).fill_(_NOT_HERE)
            letter.expected = wanted
            receives.append(letter)
        batch = _Batch(sends, receives)
        self._me.batches.append(batch)
        world.switch(self._me)
        return _Pending(world, self._me, batch)


class _Pending:
    def __init__(self, world: _World, rank: _Rank, batch: _Batch) -> None:
        self._world, self._rank, self._batch = world, rank, batch

    def wait(self) -> None:
        """Until all of it is delivered."""
        self._rank.waits = self._batch
        while not self._batch.done:
            self._world.switch(self._rank)
        self._rank.waits = None


@dataclass(frozen=True)
class Ran(Generic[T]):
    """What ranks returned, and the bytes that each sent each."""

    results: list[T]
    bytes: Counter[Pair]

    def sent(self, rank: int) -> int:
        """The bytes that a rank sent."""
        return sum(count for (source, _), count in self.bytes.items() if source == rank)


def simulate(ranks: int, f: Callable[[Simulated], T], seed: int = 0) -> Ran[T]:
    """Run ``f`` on each rank, with its transport. Raises what a rank raises, and Stuck where they wait for ever."""
    world = _World(ranks, seed)
    results: list[Any] = [None] * ranks

    def run(rank: int) -> None:
        me = world.ranks[rank]
        me.baton.acquire()
        try:
            if world.stuck is None:
                results[rank] = f(Simulated(world, rank))
        except Stuck as error:
            world.errors.append(error)
        except BaseException as error:  # raised again where the ranks were started
            world.errors.insert(0, error)
        finally:
            me.finished = True
            world.hand_on()

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    world.hand_on()
    world.all_done.wait()
    for thread in threads:
        thread.join()
    if world.errors:
        raise next((error for error in world.errors if not isinstance(error, Stuck)), world.errors[0])
    assert not world.letters, f"never delivered: {', '.join(map(str, world.letters.values()))}"
    return Ran(results, world.bytes)
