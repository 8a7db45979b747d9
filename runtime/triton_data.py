"""What Triton kernels read beside the tensors of a call: lists of positions, and tables of tiles, on the device."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from attnspec.runtime.program import Program
from attnspec.sizes import Sizes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from attnspec.codegen.plan import Pass, Plan
    from attnspec.codegen.triton_kernel import Plans

Given = dict[str, Tensor | int]


def data(plans: Plans, wanted: tuple[str, ...], sizes: Sizes, wide: bool, device: torch.device) -> Given:
    """The lists and tables that a module's ``GIVEN`` names, for a call of these sizes."""
    found: Given = {}
    for kind, made in (("forward", plans.forward), ("queries", plans.queries), ("keys", plans.keys)):
        for number, item in enumerate(made.passes):
            own = f"{kind}_{number}"
            names = {name.removeprefix(f"{own}.") for name in wanted if name.startswith(f"{own}.")}
            if names & {"q_list", "k_list"}:
                found |= {f"{own}.{name}": value for name, value in _lists(item, sizes, wide, device).items()}
            if "table" in names:
                tables = _tables(made, item, sizes, kind == "keys", device)
                found |= {f"{own}.{name}": value for name, value in tables.items()}
    return found


def _lists(item: Pass, sizes: Sizes, wide: bool, device: torch.device) -> Given:
    found: Given = {}
    listings = item.layout.lists(sizes, item.tile.rows, item.tile.columns)
    for name, listing in zip("qk", listings, strict=True):
        if listing is not None:
            positions = torch.from_numpy(listing.positions.astype(np.int64 if wide else np.int32))
            found[f"{name}_list"] = positions.to(device)
            found[f"{name}_first_slot"], found[f"{name}_count"] = listing.first, listing.count
    return found


def _tables(made: Plan, item: Pass, sizes: Sizes, transposed: bool, device: torch.device) -> Given:
    """The tables of all heads, one after another; heads that share a set of tiles share a table."""
    from attnspec.codegen.table import table
    from attnspec.presburger import PARAMETERS

    outer, inner = item.query_tiles(sizes), item.key_tiles(sizes)
    if transposed:
        outer, inner = inner, outer
    whole = _whole(item, sizes)
    matter = [name for name in PARAMETERS if any(s.depends_on(name) for s in (item.full, item.maybe, item.partial))]
    known: dict[tuple[int | None, ...], int] = {}
    place = np.zeros((sizes.batch, sizes.heads), dtype=np.int64)
    parts: list[tuple[NDArray[np.int64], ...]] = []
    rows = tiles = 0
    for b in range(sizes.batch):
        for h in range(sizes.heads):
            if item not in made.of_head(h).passes:
                continue
            values = sizes.parameters(h, b)
            which = tuple(values.get(name) for name in matter)
            if which not in known:
                known[which] = rows
                t = table(item, sizes, h, b, transposed)
                count = np.diff(t.start)
                row = np.repeat(np.arange(len(count)), count)
                full = np.arange(len(t.tiles)) - t.start[row] < t.fulls[row]
                full &= whole[row if transposed else t.tiles - inner.start]
                order = np.lexsort((t.tiles, ~full, row))
                fulls = np.bincount(row[full], minlength=len(count))
                begin = t.start[:-1] + tiles
                parts.append((begin, begin + fulls, t.start[1:] + tiles, t.tiles[order]))
                rows, tiles = rows + len(count), tiles + len(t.tiles)
            place[b, h] = known[which]
    arrays = zip(*parts, strict=True) if parts else [[np.zeros(1, np.int64)]] * 4
    names = ("start", "middle", "end", "tiles")
    found: Given = {
        name: torch.from_numpy(np.concatenate(list(x))).to(device) for name, x in zip(names, arrays, strict=True)
    }
    return {"table": torch.from_numpy(place.reshape(-1)).to(device), "first_outer": outer.start, **found}


def _whole(item: Pass, sizes: Sizes) -> NDArray[np.bool_]:
    """For each key tile, whether all its slots hold keys."""
    size = item.tile.columns
    return np.array([len(item.layout.key_positions(j, sizes, 0, size)) == size for j in item.key_tiles(sizes)], dtype=bool)


@functools.lru_cache(maxsize=16)
def cached(program: Program, plans: Plans, wanted: tuple[str, ...], sizes: Sizes, wide: bool, device: torch.device) -> Given:
    """The same, kept for the sizes of recent calls."""
    return data(plans, wanted, sizes, wide, device)
