"""Time functions against each other: interleaved rounds, medians, and how many."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of each counted round of one contender."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """The fastest and the slowest."""
        return min(self.seconds), max(self.seconds)


Clock = Callable[[Callable[[], object]], float]
"""The seconds that a call takes."""


def wall(call: Callable[[], object]) -> float:
    """The time that passes while a call runs: for calls that wait for what they start."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def processor_time(call: Callable[[], object]) -> float:
    """The time that all threads of this process compute while a call runs."""
    start = time.process_time()
    call()
    return time.process_time() - start


@contextmanager
def on_threads(number: int | None) -> Iterator[None]:
    """Compute on so many threads, if it is said on how many."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def race(
    contenders: Mapping[str, Callable[[], object]],
    runs: int,
    tick: Callable[[], object] = lambda: None,
    clock: Clock = wall,
    budget: float = math.inf,
) -> dict[str, Timing]:
    """Time every contender up to ``runs`` times, in turn, after one round that is not counted.

    ``tick`` is called after each call, for a progress bar: ``(runs + 1) * len(contenders)`` times at most. ``clock``
    runs a call and tells its time. Of ``budget`` seconds each contender has an equal share: one that has no time left
    for another call drops out, and one whose share the first round took has that as its only time.
    """
    share = budget / max(1, len(contenders))
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(runs + 1):
        for name, call in contenders.items():
            before = spent[name]
            if turn and sum(before) + before[-1] > share:
                continue
            before.append(clock(call))
            tick()
    return {name: Timing(tuple(times[1:] or times)) for name, times in spent.items()}
