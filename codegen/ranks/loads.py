"""What ranks compute in each step, as arrays: all that times need of a schedule beside what it sends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnspec.codegen.ranks.exchange import Exchange
from attnspec.codegen.ranks.needs import Ints
from attnspec.codegen.ranks.placed import Placed
from attnspec.codegen.ranks.planned import Schedule


@dataclass(frozen=True)
class Loads:
    """Of one batch entry, over all heads and branches: pairs and kernel calls, arrays (steps, ranks)."""

    pairs: Ints
    calls: Ints


def loads(plan: Schedule) -> Loads:
    """The loads of a schedule."""
    shape = plan.steps, plan.ranks
    pairs, calls = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    owners = np.array(plan.shards.owners, dtype=np.int64)
    for one in plan.placed:
        np.add.at(pairs[0], owners, one.local)
        np.add.at(calls[0], owners, (one.local > 0).astype(np.int64))
        step = _steps(one, plan.traffic, plan.ranks)
        np.add.at(pairs, (step, one.place), one.pairs)
        np.add.at(calls, (step, one.place), 1)
    return Loads(pairs, calls)


def _steps(one: Placed, traffic: Exchange, ranks: int) -> Ints:
    """The step in which each part is computed."""
    far = one.asker != one.keeper
    names = traffic.source * ranks + traffic.target
    found = np.zeros(len(far), dtype=np.int64)
    found[far] = traffic.step[np.searchsorted(names, (one.other * ranks + one.place)[far])]
    return found
