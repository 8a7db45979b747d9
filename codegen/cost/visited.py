"""What a kernel does with each pair: it skips it, computes it in a tile that evaluates the mask, or in a full one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from attnspec.codegen.cost.counted import Contents, TooMany, visits
from attnspec.codegen.plan.plan import Plan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from attnspec.relation.sizes import Sizes

SKIPPED, PARTIAL, FULL = 0, 1, 2
_MOST_PAIRS = 1 << 26


def visited(plan: Plan, sizes: Sizes, h: int, b: int, contents: Contents) -> NDArray[np.uint8]:
    """SKIPPED, PARTIAL or FULL for each query row and key of one head of one batch entry, (n_q, n), by all passes.

    Raises TooMany where there are too many pairs to hold.
    """
    if sizes.n * sizes.n_q > _MOST_PAIRS:
        raise TooMany(f"the picture would have more than {_MOST_PAIRS:,} pairs")
    out = np.zeros((sizes.n_q, sizes.n), dtype=np.uint8)
    env = {**sizes.parameters(h, b), **contents.tables()}
    order = None if contents.slots is None else contents.slots[b, h]
    for item in plan.of_head(h).passes:
        for c in range(item.layout.residues):
            for i, j, full in visits(item, sizes, h, b, c, env):
                q = item.layout.query_positions(i, sizes, c, item.tile.rows)
                k = item.layout.key_positions(j, sizes, c, item.tile.columns)
                at = np.ix_(*((q - sizes.first, k) if order is None else (order[q], order[k])))
                out[at] = np.maximum(out[at], FULL if full else PARTIAL)
    return out
