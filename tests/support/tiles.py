"""The tiles of a call by brute force."""

from __future__ import annotations

import numpy as np

from attnspec.codegen.plan.plan import Pass
from attnspec.relation.sizes import Sizes
from attnspec.spec.evaluate import holds


def tile_kinds(
    item: Pass, sizes: Sizes, h: int, c: int = 0, whole: Sizes | None = None
) -> dict[tuple[int, int], tuple[bool, bool]]:
    """For each tile of the call, by looking at the pairs of a pass: does it hold a live one, and are all live?

    Tiles at the borders are cut there, unless ``whole`` are the sizes of a call that holds all of them.
    """
    found, inside = {}, whole or sizes
    for i in item.query_tiles(sizes, c):
        for j in item.key_tiles(sizes, c):
            q = item.layout.query_positions(i, inside, c, item.tile.rows)[:, None]
            k = item.layout.key_positions(j, inside, c, item.tile.columns)[None, :]
            part = np.broadcast_to(holds(item.pred, {**sizes.parameters(h, 0), "q": q, "k": k}), (q.size, k.size))
            found[i, j] = bool(part.any()), bool(part.all())
    return found
