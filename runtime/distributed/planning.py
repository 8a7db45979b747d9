"""What is planned for a group of ranks, and what for."""

from __future__ import annotations

from typing import NamedTuple

import torch

from attnspec.codegen.ranks.planned import Schedule, schedule
from attnspec.codegen.ranks.refused import require_splittable
from attnspec.relation.sizes import Sizes
from attnspec.runtime.attention import Attention


class Asked(NamedTuple):
    """What a plan is for, beside the pattern, the length and the number of ranks: sizes, wishes, and prices."""

    heads: int
    kv_heads: int
    dim: int
    dim_v: int
    dtype: str
    batch: int
    shard: str
    chunks: int | None
    machine: str


def planned(attend: Attention, ranks: int, n: int, asked: Asked) -> Schedule:
    """The plan: worked out from integers only, and so the same on all ranks."""
    shard = "contiguous" if asked.shard == "auto" else asked.shard
    m = attend.spec.sizes(n)["m"]
    sizes = Sizes(n, n, asked.heads, asked.kv_heads, asked.batch, attend.spec.align == "end", m)
    relation = attend.relation_for(heads=asked.heads, kv_heads=asked.kv_heads, batch=asked.batch)
    require_splittable(relation, sizes)
    itemsize = getattr(torch, asked.dtype).itemsize
    return schedule(relation, sizes, ranks, shard, asked.chunks, asked.dim, asked.dim_v, itemsize)
