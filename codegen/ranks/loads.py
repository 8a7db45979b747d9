"""What ranks compute in each step, as arrays: all that times need of a schedule beside what it sends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnspec.codegen.ranks.exact import Counts, added, sums
from attnspec.codegen.ranks.planned import Schedule


@dataclass(frozen=True)
class Loads:
    """Of one batch entry, over all heads and branches: pairs and kernel calls, arrays (steps, ranks)."""

    pairs: Counts
    calls: Counts


def loads(plan: Schedule) -> Loads:
    """The loads of a schedule."""
    length, owner = plan.steps * plan.ranks, plan.shards.owner
    pairs, calls = [np.zeros(length, dtype=np.int64)], np.zeros(length, dtype=np.int64)
    for one in plan.placed:
        place = plan.steps_of(one.other, one.place) * plan.ranks
        place += one.place
        pairs += [sums(owner, one.local, length), sums(place, one.pairs, length)]
        calls += np.bincount(owner[one.local > 0], minlength=length) + np.bincount(place, minlength=length)
    return Loads(*(column.reshape(plan.steps, plan.ranks) for column in (added(*pairs), calls)))
