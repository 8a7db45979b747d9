"""What is planned for a group of ranks, and what for."""

from __future__ import annotations

from typing import NamedTuple

from attnspec.runtime.attention import Attention
from attnspec.runtime.distributed.duties import Planned


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


def planned(attend: Attention, ranks: int, n: int, asked: Asked) -> Planned:
    """The plan: worked out from integers only, and so the same on all ranks."""
    raise NotImplementedError
