"""What ranks compute in each step, as arrays: all that times need of a schedule beside what it sends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnspec.codegen.ranks.exact import Counts, sums
from attnspec.codegen.ranks.exchange import Exchange
from attnspec.codegen.ranks.needs import Ints
from attnspec.codegen.ranks.placed import Placed
from attnspec.codegen.ranks.planned import Schedule


@dataclass(frozen=True)
class Loads:
    """Of one batch entry, over all heads and branches: pairs and kernel calls, arrays (steps, ranks)."""

    pairs: Counts
    calls: Counts


def loads(plan: Schedule) -> Loads:
    """The loads of a schedule."""
    shape = plan.steps, plan.ranks
    owners = np.array(plan.shards.owners, dtype=np.int64)
    places, pairs, calls = [], [], []
    for one in plan.placed:
        step = _steps(one, plan.traffic, plan.ranks)
        places += [owners, step * plan.ranks + one.place]
        pairs += [one.local, one.pairs]
        calls += [one.local > 0, np.ones(len(step), dtype=bool)]
    place = np.concatenate(places)
    columns = (np.concatenate(pairs), np.concatenate(calls).astype(np.int64))
    return Loads(*(sums(place, column, plan.steps * plan.ranks).reshape(shape) for column in columns))


def _steps(one: Placed, traffic: Exchange, ranks: int) -> Ints:
    """The step in which each part is computed."""
    far = one.asker != one.keeper
    names = traffic.source * ranks + traffic.target
    found = np.zeros(len(far), dtype=np.int64)
    found[far] = traffic.step[np.searchsorted(names, (one.other * ranks + one.place)[far])]
    return found
