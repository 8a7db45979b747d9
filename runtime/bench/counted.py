"""How many pairs and tiles are live in a call whose inputs decide, counted on the device of the inputs.

>>> from attnspec.check.check import check_text
>>> spec = check_text("attention a { input doc: int[n] sorted attend doc[q] == doc[k] within causal }")
>>> tables = {"doc": torch.tensor([0, 0, 0, 1, 1, 1])}
>>> live(spec, Sizes(6, 6), tables, (Tile(2, 2),))
Live(pairs=12, tiles={Tile(rows=2, columns=2): 5})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from attnspec.codegen.tiles import Tile
from attnspec.relation.sizes import Sizes
from attnspec.runtime.expressions.functions import mask_function, why_not
from attnspec.spec import contents
from attnspec.spec.spec import Spec

LIMIT = 1 << 36
"""Pairs beyond which nothing is counted."""
_BLOCK = 1 << 27


@dataclass(frozen=True)
class Live:
    """Live pairs, and tiles with a live pair by their size, over all heads and batch entries."""

    pairs: int
    tiles: Mapping[Tile, int]


def live(spec: Spec, sizes: Sizes, tables: Mapping[str, Tensor], tiles: Sequence[Tile]) -> Live | None:
    """Count with prepared inputs; None where it would take too long, or a pattern is more than a mask.

    Tiles lie on positions in their order: a layout of another kind may need fewer.
    """
    names = contents.free(spec.pred)
    batch, heads = (size if name in names else 1 for name, size in (("b", sizes.batch), ("h", sizes.heads)))
    often = (sizes.batch // max(1, batch)) * (sizes.heads // max(1, heads))
    if why_not(spec) in ("cannot express a computed order", "cannot express a mixture"):
        return None
    if sizes.n * sizes.n_q * batch * heads > LIMIT:
        return None
    function = mask_function(spec, sizes, tables)
    device = next((t.device for t in tables.values()), torch.device("cpu"))
    keys, pairs, counts = torch.arange(sizes.n, device=device)[None, :], 0, dict.fromkeys(tiles, 0)
    most = max((tile.rows for tile in tiles), default=1)
    step = max(1, _BLOCK // max(1, sizes.n) // most) * most
    for b in range(batch):
        for h in range(heads):
            at_b, at_h = (torch.tensor(i, device=device) for i in (b, h))
            for start in range(0, sizes.n_q, step):
                rows = torch.arange(start, min(start + step, sizes.n_q), device=device)[:, None]
                seen = function(at_b, at_h, rows, keys).expand(len(rows), sizes.n)
                pairs += int(seen.sum())
                for tile in counts:
                    counts[tile] += _tiles(seen, tile)
    return Live(pairs * often, {tile: count * often for tile, count in counts.items()})


def _tiles(seen: Tensor, tile: Tile) -> int:
    """How many tiles of a block of rows have a live pair."""
    down, across = (-size % own for size, own in zip(seen.shape, (tile.rows, tile.columns), strict=True))
    whole = pad(seen, (0, across, 0, down)) if down or across else seen
    shape = whole.shape[0] // tile.rows, tile.rows, whole.shape[1] // tile.columns, tile.columns
    return int(whole.reshape(shape).any(3).any(1).sum())
