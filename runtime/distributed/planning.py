"""What is planned for a group of ranks, and what for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from attnspec.codegen.ranks.choose import plan_ranks
from attnspec.codegen.ranks.machines import MACHINES
from attnspec.codegen.ranks.plan import RankPlan
from attnspec.codegen.ranks.planned import Schedule, schedule
from attnspec.codegen.ranks.refused import CannotSplit
from attnspec.codegen.ranks.shards import Shards
from attnspec.relation.relation import DependsOnInputs, Relation
from attnspec.relation.sizes import Sizes
from attnspec.runtime.attention import Attention
from attnspec.runtime.core.arguments import CallError
from attnspec.spec.spec import Spec


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

    def sizes(self, spec: Spec, n: int) -> Sizes:
        """Those of a call with sequences of length n."""
        aligned_end = spec.align == "end"
        return Sizes(n, n, self.heads, self.kv_heads, self.batch, aligned_end, spec.sizes(n)["m"])

    def relation(self, attend: Attention) -> Relation:
        """That of a pattern for its heads."""
        return attend.relation_for(heads=self.heads, kv_heads=self.kv_heads, batch=self.batch)

    @property
    def itemsize(self) -> int:
        """The bytes of a number."""
        return int(getattr(torch, self.dtype).itemsize)

    def check(self, name: str, q: Tensor, k: Tensor, v: Tensor) -> None:
        """Raise CallError for tensors of other heads or dimensions."""
        found = {"heads": q.shape[1], "kv_heads": k.shape[1], "dim": q.shape[3], "dim_v": v.shape[3]}
        for label, has in found.items():
            if has != (wants := getattr(self, label)):
                raise CallError(
                    f"{name}: this is planned for {label} = {wants}, and the tensors have {has}: attnspec.distribute("
                    f"..., {label}={has})"
                )


def planned(attend: Attention, ranks: int, n: int, asked: Asked) -> RankPlan:
    """The plan: worked out from integers only, and so the same on all ranks.

    Raises CallError for a pattern that ranks cannot share, and for wishes that no plan fits.
    """
    relation = asked.relation(attend)
    with _refusing(attend.spec):
        return plan_ranks(
            relation,
            asked.sizes(attend.spec, n),
            ranks,
            shard=asked.shard,
            chunks=asked.chunks,
            dim=asked.dim,
            dim_v=asked.dim_v,
            itemsize=asked.itemsize,
            dtype=asked.dtype,
            machine=MACHINES[asked.machine],
        )


def scheduled(attend: Attention, dealt: Shards, asked: Asked) -> Schedule:
    """What ranks do over shards that others chose. Raises CallError for a pattern that they cannot share."""
    relation = asked.relation(attend)
    with _refusing(attend.spec):
        sizes = asked.sizes(attend.spec, dealt.n)
        return schedule(relation, sizes, dealt.ranks, dealt, None, asked.dim, asked.dim_v, asked.itemsize)


@contextmanager
def _refusing(spec: Spec) -> Iterator[None]:
    try:
        yield
    except (CannotSplit, DependsOnInputs, ValueError) as error:
        said = str(error)  # some begin with the name
        said = said if said.startswith(spec.name) else f"{spec.name}: {said}"
        if isinstance(error, (CannotSplit, DependsOnInputs)):
            said += '. attnspec.distribute(..., gather="keys") gathers all keys on every rank'
        raise CallError(said) from None
