"""What a measured case is to keep to, and whether it does."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import NamedTuple

from attnspec.runtime.bench.ranks.cases import BALANCED, BALANCED_CPU, MOST_MEMORY
from attnspec.runtime.bench.ranks.contenders import GATHER, OURS, ROTATIONS
from attnspec.runtime.bench.ranks.measure import TOLERANCE, Compared


class Bar(NamedTuple):
    """What was found, the limit that it is held against, and whether it holds; ``at_least`` says which way."""

    what: str
    found: float
    limit: float
    holds: bool
    at_least: bool = False


def bars(of: Compared) -> Iterator[Bar]:
    """Those of a case."""
    case, ours = of.case, of.ran[OURS]
    differ = sum(abs(sent - planned) for sent, planned in zip(ours.sent, of.planned.sent, strict=True))
    yield _most("bytes sent that the plan does not say", differ, 0)
    for name, ran in of.ran.items():
        yield _most(f"largest difference from one device, {name}", ran.error, TOLERANCE)
    if case.sent is not None:
        yield _most("of the bytes of all-gather", ours.total / of.ran[GATHER].total, case.sent)
    if case.balanced:
        pairs = of.planned.pairs
        yield _most("largest over mean pairs of a rank", max(pairs) / statistics.mean(pairs), BALANCED)
        yield _most("largest over mean CPU time of a rank", ours.cpu_spread, BALANCED_CPU)
    yield _most("peak memory by what a rank holds and receives", of.memory, MOST_MEMORY)
    if case.faster is not None:
        yield _least("times as fast as all-gather", of.times(GATHER), case.faster)
    if case.causal:
        for name in ROTATIONS:
            yield _least(f"times as fast as {name}", of.times(name), 1.0)


def _most(what: str, found: float, limit: float) -> Bar:
    return Bar(what, found, limit, found <= limit)


def _least(what: str, found: float, limit: float) -> Bar:
    return Bar(what, found, limit, found >= limit, True)
