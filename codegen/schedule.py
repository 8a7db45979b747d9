"""How large the tiles are that a kernel walks in."""

from __future__ import annotations

from attnspec.codegen.plan import Tile

TILE = Tile(128, 64)
"""The tile of the C++ target, for every element type and head size."""

REASON = "the fastest or within 3 % of 64 x 64, 128 x 64 and 128 x 128 for head sizes 17 to 256 (Zen 5, 2026)"

GRIDS = (((4, 8), (4, 8)), ((4, 8), (2, 8)), ((8, 8), (4, 8)), ((8, 16), (8, 8)))
"""Rectangles of grid rows by grid columns that are tried for queries and for keys; 32 queries fill the vector lanes."""
