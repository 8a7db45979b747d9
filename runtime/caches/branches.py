"""The branches of a mixture that is computed branch by branch: each has a cache of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from attnspec.analysis.cache_size import KeyHeads
from attnspec.runtime.caches.rows import Rows
from attnspec.runtime.core.request import EMPTY, Part
from attnspec.runtime.linear.favor import by_branch
from attnspec.runtime.mixture import Mixture


class OfBranch(Protocol):
    """A cache of one branch: :class:`attnspec.Cache`."""

    n: int
    kept: tuple[KeyHeads, ...]
    positions: tuple[tuple[range, ...], ...]
    bytes: int
    first_query: int

    def append(self, k: Tensor, v: Tensor) -> None:
        """Take keys and values."""

    def attend(self, q: Tensor, **options: Any) -> Any:
        """Attention of the last queries."""

    def reset(self) -> None:
        """Forget everything."""

    def reorder(self, indices: Tensor) -> None:
        """Take these entries of the batch."""

    def said(self) -> str:
        """What is kept, in a few words."""


class Branches:
    """The caches of branches, and what puts together what they give."""

    def __init__(self, caches: Sequence[Any], mixture: Mixture, heads: int) -> None:
        """``heads``: how many key heads there are."""
        self.caches: Sequence[OfBranch] = caches
        self.heads = range(heads)
        self._mixture = mixture

    @property
    def tokens(self) -> int:
        """How many tokens were appended."""
        return self.caches[0].n

    @property
    def first_query(self) -> int:
        """The first position whose query can attend."""
        return max(cache.first_query for cache in self.caches)

    @property
    def positions(self) -> tuple[tuple[range, ...], ...]:
        """Where the keys stand that are there, of each branch."""
        return tuple(runs for cache in self.caches for runs in cache.positions)

    @property
    def bytes(self) -> int:
        """The memory that is held."""
        return sum(cache.bytes for cache in self.caches)

    def __str__(self) -> str:
        return "; ".join(cache.said() for cache in self.caches)

    def append(self, k: Tensor, v: Tensor) -> None:
        """Keep the next keys and values."""
        for cache in self.caches:
            cache.append(k, v)

    def attend(
        self, rows: Rows, q: Tensor, part: Part, scale: float | None, inputs: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Output and, unless shares are given, log-sum-exp of queries of the last tokens, with the sink."""
        shared = bool(self._mixture.shares)
        inputs, given = by_branch([branch.spec for branch in self._mixture.branches], inputs)  # type: ignore[attr-defined]
        options = {"scale": scale, "return_lse": not shared}
        found = [cache.attend(q, inputs=own, **options) for cache, own in zip(self.caches, given, strict=True)]
        nothing = torch.full(q.shape[:3], torch.nan, device=q.device)
        parts = [(out, nothing) if shared else out for out in found]
        keys = q.new_empty(()).expand(part.batch, part.kv_heads, part.n, q.shape[3])  # looked at for their number
        out, lse = self._mixture.put_together(q, keys, inputs, parts)
        return out, EMPTY if shared else lse

    def attended(self) -> None:
        """The queries of the last tokens have seen what they see: the caches know."""

    def reset(self) -> None:
        """Forget everything."""
        for cache in self.caches:
            cache.reset()

    def reorder(self, indices: Tensor) -> None:
        """Take these entries of the batch in place of those there are."""
        for cache in self.caches:
            cache.reorder(indices)
