"""What is planned for a group of ranks, and what for."""

from __future__ import annotations

from typing import NamedTuple

import torch

from attnspec.codegen.ranks.choose import plan_ranks
from attnspec.codegen.ranks.machines import MACHINES
from attnspec.codegen.ranks.plan import RankPlan
from attnspec.codegen.ranks.refused import CannotSplit
from attnspec.relation.relation import DependsOnInputs
from attnspec.relation.sizes import Sizes
from attnspec.runtime.attention import Attention
from attnspec.runtime.core.arguments import CallError


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


def planned(attend: Attention, ranks: int, n: int, asked: Asked) -> RankPlan:
    """The plan: worked out from integers only, and so the same on all ranks.

    Raises CallError for a pattern that ranks cannot share, and for wishes that no plan fits.
    """
    relation = attend.relation_for(heads=asked.heads, kv_heads=asked.kv_heads, batch=asked.batch)
    try:
        m = attend.spec.sizes(n)["m"]
        sizes = Sizes(n, n, asked.heads, asked.kv_heads, asked.batch, attend.spec.align == "end", m)
        return plan_ranks(
            relation,
            sizes,
            ranks,
            shard=asked.shard,
            chunks=asked.chunks,
            dim=asked.dim,
            dim_v=asked.dim_v,
            itemsize=getattr(torch, asked.dtype).itemsize,
            dtype=asked.dtype,
            machine=MACHINES[asked.machine],
        )
    except (CannotSplit, DependsOnInputs, ValueError) as error:
        said = str(error)  # some begin with the name
        said = said if said.startswith(attend.spec.name) else f"{attend.spec.name}: {said}"
        if isinstance(error, (CannotSplit, DependsOnInputs)):
            said += '. attnspec.distribute(..., gather="keys") gathers all keys on every rank'
        raise CallError(said) from None
