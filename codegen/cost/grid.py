"""How many tiles there are to visit or to skip."""

from __future__ import annotations

from attnspec.codegen.plan.area import residues
from attnspec.codegen.plan.plan import Plan
from attnspec.relation.sizes import Sizes


def grid(plan: Plan, sizes: Sizes, h: int) -> tuple[int, int, int]:
    """How many query tiles, key tiles and tiles there are in the layouts of a head's passes, visited or not."""
    rows, columns, tiles = 0, 0, 0
    for pass_ in plan.of_head(h).passes:
        for c, often in residues(pass_.layout, (), pass_.tile, sizes):
            down, across = len(pass_.query_tiles(sizes, c)), len(pass_.key_tiles(sizes, c))
            rows, columns, tiles = rows + often * down, columns + often * across, tiles + often * down * across
    return rows, columns, tiles
