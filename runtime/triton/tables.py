"""What Triton kernels read beside the tensors of a call: lists of positions, and tables of tiles, on the device."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.program import Program

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from attnspec.codegen.plan.plan import Pass, Plan
    from attnspec.codegen.triton.module import Plans

Given = dict[str, Any]


def data(plans: Plans, wanted: tuple[str, ...], sizes: Sizes, wide: bool, device: torch.device) -> Given:
    """The lists and tables that a module's ``GIVEN`` names, for a call of these sizes, or a part of one."""
    found: Given = {}
    for kind, made in (("forward", plans.forward), ("queries", plans.queries), ("keys", plans.keys)):
        for number, item in enumerate(made.passes):
            prefix = f"{kind}_{number}"
            names = {name.removeprefix(f"{prefix}.") for name in wanted if name.startswith(f"{prefix}.")}
            if names & {"q_list", "k_list"}:
                found |= {f"{prefix}.{name}": value for name, value in _lists(item, sizes, wide, device).items()}
            if "table" in names:
                tables = _tables(made, item, sizes, kind == "keys", device)
                found |= {f"{prefix}.{name}": value for name, value in tables.items()}
    return found


def moves(name: str) -> bool:
    """Whether what is given by a name depends on which part of the sizes a call holds: tables hold for all of them."""
    return name.rpartition(".")[2] in ("q_list", "q_first_slot", "q_count", "k_list", "k_first_slot", "k_count")


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
    """The tables of all heads, one after another. Kernels mask nothing in full tiles: these hold whole tiles only."""
    from attnspec.codegen.plan.table import tables

    outer, inner = item.query_tiles(sizes), item.key_tiles(sizes)
    if transposed:
        outer, inner = inner, outer
    whole = _whole(item, sizes)
    found, which = tables(made, item, sizes, transposed)
    first_rows = np.cumsum([0, *(len(t.fulls) for t in found)])
    first_tiles = np.cumsum([0, *(len(t.tiles) for t in found)])
    begin, middle, end, order = ([np.zeros(0, dtype=np.int64)] for _ in range(4))
    for t, first in zip(found, first_tiles, strict=False):
        count = np.diff(t.start)
        row = np.repeat(np.arange(len(count)), count)
        full = np.arange(len(t.tiles)) - t.start[row] < t.fulls[row]
        full &= whole[row if transposed else t.tiles - inner.start]
        begin.append(t.start[:-1] + first)
        middle.append(begin[-1] + np.bincount(row[full], minlength=len(count)))
        end.append(t.start[1:] + first)
        order.append(t.tiles[np.lexsort((t.tiles, ~full, row))])
    arrays = {"start": begin, "middle": middle, "end": end, "tiles": order}
    parts: Given = {name: torch.from_numpy(np.concatenate(rows)).to(device) for name, rows in arrays.items()}
    table = torch.from_numpy(first_rows[which].reshape(-1)).to(device)
    return {"table": table, "first_outer": outer.start, **parts}


def _whole(item: Pass, sizes: Sizes) -> NDArray[np.bool_]:
    """For each key tile, whether all its slots hold keys."""
    size = item.tile.columns
    return np.array(
        [len(item.layout.key_positions(j, sizes, 0, size)) == size for j in item.key_tiles(sizes)], dtype=bool
    )


@functools.lru_cache(maxsize=16)
def cached(
    program: Program, plans: Plans, wanted: tuple[str, ...], sizes: Sizes, wide: bool, device: torch.device
) -> Given:
    """The same, kept for the sizes of recent calls."""
    return data(plans, wanted, sizes, wide, device)
