"""Helpers: contiguous shards of causal attention, of which every rank computes as much as any other.

A rank with few keys before it helps the others with their queries (DISTFLASHATTN: Li et al., 2024, section 3.1). Of the
pair of ranks (i, j), i > j, the one that has the queries, i, computes all where 2 (i - j) is less than the number of
ranks, and the one that has the keys, j, where it is more; where both are the same each computes half. So each rank is
given its own pairs and (ranks - 1) / 2 others, for every number of ranks, odd ones too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attnspec.codegen.ranks.parts import Parts
from attnspec.codegen.ranks.runs import Run
from attnspec.codegen.ranks.shapes import Shapes
from attnspec.codegen.ranks.shards import Shards


def helped(parts: Parts, shards: Shards, shapes: Shapes) -> tuple[Parts, NDArray[np.bool_]] | None:
    """The parts, with some cut in two, and which of them are computed where the keys are; None where it is no help."""
    ranks = shards.ranks
    if shards.owners != tuple(range(ranks)) or not shards.size or len(parts) != ranks * (ranks - 1) // 2:
        return None
    lengths = shards.ends[1] - shards.ends[0]
    counts = shapes.counts
    whole = (counts[parts.rows] == lengths[parts.asker]) & (counts[parts.keys] == lengths[parts.keeper])
    if ranks < 2 or not whole.all() or not (parts.asker > parts.keeper).all():
        return None
    twice = 2 * (parts.asker - parts.keeper)
    (tie,) = np.nonzero(twice == ranks)
    upper, lower = parts.rows.copy(), parts.rows[tie].copy()
    for at, part in enumerate(tie.tolist()):
        length = int(lengths[parts.asker[part]])
        if length < 2:
            lower[at] = -1
            continue
        upper[part] = shapes.add((Run(0, length // 2),))
        lower[at] = shapes.add((Run(length // 2, length),))
    cut = tie[lower >= 0]
    own, like = np.arange(len(parts)), parts.like.copy()
    like[cut] = own[cut]
    return (
        Parts(
            np.concatenate([parts.asker, parts.asker[cut]]),
            np.concatenate([parts.keeper, parts.keeper[cut]]),
            np.concatenate([upper, lower[lower >= 0]]),
            np.concatenate([parts.keys, parts.keys[cut]]),
            np.concatenate([_first_uncut(like, cut), len(parts) + np.arange(len(cut))]),
        ),
        np.concatenate([twice > ranks, np.ones(len(cut), dtype=bool)]),
    )


def _first_uncut(like: NDArray[np.int64], cut: NDArray[np.int64]) -> NDArray[np.int64]:
    """What parts are like, where the part that stood for others may be one that was cut: then another does."""
    is_cut = np.zeros(len(like), dtype=bool)
    is_cut[cut] = True
    found = like.copy()
    for stood in np.unique(like[~is_cut]):
        if is_cut[stood]:
            (rest,) = np.nonzero((like == stood) & ~is_cut)
            found[rest] = rest[0]
    return found
