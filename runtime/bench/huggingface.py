"""One decoding step of a layer of transformers, and of whole small models, in our kernels beside SDPA's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from attnspec.runtime.bench.clock import Timing, on_threads, processor_time, race
from attnspec.runtime.huggingface.decoding import NAMES, Row, calls

LIMIT = 1.1
"""How many times SDPA's time a step may take."""
_CALLS = 8
"""Calls of one round: a single one is soon over."""


@dataclass(frozen=True)
class Step:
    """The timings of a row."""

    row: Row
    attnspec: Timing
    sdpa: Timing

    @property
    def times(self) -> float:
        """The time of attnspec over that of SDPA, by medians."""
        return self.attnspec.median / self.sdpa.median


def measure(rows: tuple[Row, ...], runs: int, tick: Callable[[str], object] = lambda _: None) -> Iterator[Step]:
    """Rows on one thread, each in one interleaved run after a round that is not counted, without gradients.

    Times are those of the processor for one step.
    """
    for row in rows:
        tick(f"{row.title}, {row.n:,} keys")
        with on_threads(1), torch.no_grad():
            found = race({name: _often(call) for name, call in calls(row).items()}, runs, clock=processor_time)
        mine, theirs = (Timing(tuple(t / _CALLS for t in found[name].seconds)) for name in NAMES)
        yield Step(row, mine, theirs)


def _often(call: Callable[[], object]) -> Callable[[], object]:
    def calls() -> None:
        for _ in range(_CALLS):
            call()

    return calls
