"""What ranks compute in each step, as arrays: all that times need of a schedule beside what it sends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnspec.codegen.ranks.exact import Counts, added, sums
from attnspec.codegen.ranks.exchange import Exchange
from attnspec.codegen.ranks.needs import Ints
from attnspec.codegen.ranks.placed import Placed
from attnspec.codegen.ranks.planned import Schedule

_TABLE = 1 << 22
"""Pairs of ranks of which a table is made."""


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
        place = _steps(one, plan.traffic, plan.ranks) * plan.ranks
        place += one.place
        pairs += [sums(owner, one.local, length), sums(place, one.pairs, length)]
        calls += np.bincount(owner[one.local > 0], minlength=length) + np.bincount(place, minlength=length)
    return Loads(*(column.reshape(plan.steps, plan.ranks) for column in (added(*pairs), calls)))


def _steps(one: Placed, traffic: Exchange, ranks: int) -> Ints:
    """The step in which each part is computed."""
    names, asked = traffic.source * ranks + traffic.target, one.other * ranks + one.place
    if ranks * ranks <= _TABLE:
        table = np.zeros(ranks * ranks, dtype=np.int64)  # a rank sends itself nothing, and computes that in step 0
        table[names] = traffic.step
        return np.take(table, asked)
    found = np.zeros(len(asked), dtype=np.int64)
    far = one.asker != one.keeper
    found[far] = traffic.step[np.searchsorted(names, asked[far])]
    return found
