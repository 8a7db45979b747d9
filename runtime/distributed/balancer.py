"""The exact work of a pattern for PyTorch's own context parallel: which rows go to which rank."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from attnspec.codegen.ranks.shards import shards
from attnspec.relation.count import row_counts
from attnspec.relation.lower import listed_heads
from attnspec.relation.sizes import Sizes
from attnspec.runtime.attention import Attention
from attnspec.runtime.core.arguments import CallError

BLOCK = 128
"""Positions that stay together: the tiles of FlexAttention's block masks."""


class LoadBalancer:
    """A load balancer for ``context_parallel`` of FlexAttention, by the exact number of pairs in each block of rows.

    >>> import attnspec
    >>> from attnspec.distributed import LoadBalancer
    >>> balancer = LoadBalancer(attnspec.compile("longformer"), n=4096, ranks=4)
    >>> order = balancer._generate_indices()
    >>> order.shape, bool((order[0][balancer._generate_indices(restore=True)[0]] == torch.arange(4096)).all())
    (torch.Size([1, 4096]), True)
    >>> round(balancer.imbalance, 3)
    1.023

    Give it as ``load_balancer=`` to ``torch.distributed.tensor.experimental._attention._context_parallel_shard`` and
    ``context_parallel_unshard``. Blocks of 128 rows go to ranks largest first, each to the one that has the least work
    and is not full; :attr:`imbalance` is the largest over the mean work. ``heads`` counts where they differ. It is not
    for ``scaled_dot_product_attention``, whose context parallel is causal and knows one order only (head and tail).

    Raises ValueError where n is not a multiple of 128 times the ranks, which PyTorch requires, and CallError where
    inputs decide about pairs.
    """

    def __init__(
        self, attend: Attention, n: int, ranks: int, *, heads: int | None = None, device: str | torch.device = "cpu"
    ) -> None:
        if n < 1 or n % (BLOCK * ranks):
            raise ValueError(f"n = {n:,} is not a multiple of {BLOCK} x {ranks} ranks, as PyTorch's block masks want")
        spec = attend.spec
        heads = heads or listed_heads(spec) or 1
        relation, sizes = attend.relation_for(heads=heads), Sizes(n, n, heads, heads, 1, spec.align == "end")
        if spec.order is not None or not relation.exact or relation.reads_scalars:
            raise CallError(f"{spec.name}: what a call holds decides about pairs, and a balancer knows nothing of it")
        work = np.zeros(n // BLOCK, dtype=np.int64)
        rows = np.arange(n, dtype=np.int64)
        for item in relation.classes:
            for h in item.members(heads):
                work += row_counts(relation.at(sizes, h, 0, item.pairs), rows).reshape(-1, BLOCK).sum(1)
        dealt = shards("greedy", n, ranks, chunks=n // (BLOCK * ranks), work=work.tolist())
        self._order = torch.from_numpy(np.concatenate([dealt.positions(rank) for rank in range(ranks)])).to(device)
        of_ranks = np.bincount(dealt.owners, weights=work, minlength=ranks)
        self.imbalance = float(of_ranks.max() / of_ranks.mean()) if of_ranks.any() else 1.0

    def _generate_indices(self, restore: bool = False) -> Tensor:
        """The order of rows over all ranks, (1, n), or with ``restore`` what puts them back: PyTorch asks for it."""
        return (self._order.argsort() if restore else self._order)[None]
