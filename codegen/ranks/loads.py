"""What ranks compute in each step, as arrays: all that times need of a schedule beside what it sends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnspec.codegen.ranks.exchange import Exchange
from attnspec.codegen.ranks.needs import Ints
from attnspec.codegen.ranks.placed import Placed
from attnspec.codegen.ranks.planned import Schedule
from attnspec.codegen.ranks.work import work_of_rows
from attnspec.relation.count import count
from attnspec.relation.presburger import Pairs, budget


@dataclass(frozen=True)
class Loads:
    """Of one batch entry, over all heads and branches: pairs and kernel calls, arrays (steps, ranks)."""

    pairs: Ints
    calls: Ints


def loads(plan: Schedule) -> Loads:
    """The loads of a schedule; where a part is of its chunk's pairs is told from its area, the sums are exact."""
    shape = plan.steps, plan.ranks
    pairs, calls = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    owners = np.array(plan.shards.owners, dtype=np.int64)
    for one in plan.placed:
        own = _own(one)
        np.add.at(pairs[0], owners, own)
        np.add.at(calls[0], owners, (own > 0).astype(np.int64))
        step = _steps(one, plan.traffic, plan.ranks)
        np.add.at(pairs, (step, one.place), _far(one, work_of_rows(one.pattern, plan.shards) - own))
        np.add.at(calls, (step, one.place), 1)
    return Loads(pairs, calls)


def _steps(one: Placed, traffic: Exchange, ranks: int) -> Ints:
    """The step in which each part is computed."""
    far = one.asker != one.keeper
    names = traffic.source * ranks + traffic.target
    found = np.zeros(len(far), dtype=np.int64)
    found[far] = traffic.step[np.searchsorted(names, (one.other * ranks + one.place)[far])]
    return found


def _own(one: Placed) -> Ints:
    """The pairs that each chunk has with itself."""
    shards, pairs = one.shards, one.pattern.pairs
    size, ranks = shards.size, shards.ranks
    same = f"floor(x / {size}) = floor(y / {size})" if size else f"(x - y) mod {ranks} = 0"
    with budget(pairs):
        pieces = pairs.intersection(Pairs.read(same)).pieces()
    runs = map(shards.chunk, range(len(shards.owners)))
    return (
        np.array([count(pieces, run.stop - run.start, run.start) for run in runs], dtype=np.int64) * one.pattern.count
    )


def _far(one: Placed, far: Ints) -> Ints:
    """The pairs of each part, where all of a chunk's rows have ``far`` in parts."""
    area = (one.parts.row_count * one.parts.key_count).astype(np.float64)
    of_chunk = np.bincount(one.parts.asker, area, len(one.shards.owners))
    share = area / of_chunk[one.parts.asker]
    return np.rint(far[one.parts.asker] * share).astype(np.int64)
