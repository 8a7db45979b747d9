"""What a BlockMask allows: its partial blocks by its mask function, its full ones whole, and no other blocks.

Where the blocks are those that the function has anyway, the function says it all; else they are tables beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnspec.relation.box_counts import count_boxes
from attnspec.relation.count import TooIrregular
from attnspec.relation.presburger import TooHard
from attnspec.relation.relation import Relation
from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import CallError

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
_TWICE = "its keys would count twice"
_EVERYTHING = 1 << 30
"""The size of FlexAttention's block that stands for no BlockMask at all."""


@dataclass(frozen=True)
class Listed:
    """The blocks of a BlockMask: (batch or 1, heads or 1, rows of blocks, columns of blocks), bool."""

    partial: Tensor
    full: Tensor | None
    size: tuple[int, int]

    @property
    def any(self) -> Tensor:
        """Blocks of either kind."""
        return self.partial if self.full is None else self.partial | self.full

    def alone(self) -> MaskMod:
        """The blocks as a mask function, each of them whole."""
        return self._read(self.any)

    def beside(self, mask_mod: MaskMod) -> MaskMod:
        """The blocks with the function of the partial ones."""
        some = self._read(self.any)
        if self.full is None:
            return lambda b, h, q_idx, kv_idx: some(b, h, q_idx, kv_idx) & mask_mod(b, h, q_idx, kv_idx)
        full = self._read(self.full)  # the first table bounds tiles, as it must hold
        return lambda b, h, q_idx, kv_idx: (
            some(b, h, q_idx, kv_idx) & (full(b, h, q_idx, kv_idx) | mask_mod(b, h, q_idx, kv_idx))
        )

    def _read(self, blocks: Tensor) -> MaskMod:
        (rows, columns), (by_entry, by_head) = self.size, (size > 1 for size in blocks.shape[:2])
        keep = read_as(blocks)
        if by_entry and by_head:
            return lambda b, h, q_idx, kv_idx: keep[b, h, q_idx // rows, kv_idx // columns]
        if by_entry:
            return lambda b, h, q_idx, kv_idx: keep[b, q_idx // rows, kv_idx // columns]
        if by_head:
            return lambda b, h, q_idx, kv_idx: keep[h, q_idx // rows, kv_idx // columns]
        return lambda b, h, q_idx, kv_idx: keep[q_idx // rows, kv_idx // columns]


def read_as(blocks: Tensor) -> Tensor:
    """Blocks without the dimensions that hold the same for all."""
    if blocks.shape[0] == 1:
        blocks = blocks[0]
        return blocks[0] if blocks.shape[0] == 1 else blocks
    return blocks[:, 0] if blocks.shape[1] == 1 else blocks


def check_lengths(block_mask: Any, n_q: int, n: int) -> bool:
    """Whether a BlockMask restricts anything. Raises CallError where it is for other lengths than those of a call."""
    if tuple(block_mask.BLOCK_SIZE) == (_EVERYTHING, _EVERYTHING):
        return False
    made_for = tuple(block_mask.seq_lengths)
    if made_for != (n_q, n):
        raise CallError(
            f"flex_attention: block_mask was made for {made_for[0]} queries and {made_for[1]} keys, and there are "
            f"{n_q} and {n}; make one for them by create_block_mask, or crop it by block_mask._adjust({n_q}, {n})"
        )
    return True


def listed(block_mask: Any, batch: int, heads: int, n_q: int, n: int) -> Listed:
    """The blocks of a BlockMask. Raises CallError where its tables do not fit the call or name a block twice."""
    partial, full = tables(block_mask, batch, heads, n_q, n)
    kinds = [("kv", partial)] if full is None else [("kv", partial), ("full_kv", full)]
    for label, times in kinds:
        if bool((times[..., -1] > 0).any()):
            raise CallError(f"flex_attention: block_mask names blocks in {label}_indices that there are none of")
        if bool((times[..., :-1] > 1).any()):
            raise CallError(f"flex_attention: block_mask names a block twice in {label}_indices: {_TWICE}")
    if full is not None and bool((partial + full > 1).any()):
        raise CallError(f"flex_attention: block_mask lists a block as a partial and as a full one: {_TWICE}")
    return seen(partial, full, block_mask.BLOCK_SIZE)


def seen(partial: Tensor, full: Tensor | None, size: Sequence[int]) -> Listed:
    """Blocks that are named so often, the last column left out."""
    return Listed(partial[..., :-1] > 0, None if full is None else full[..., :-1] > 0, (size[0], size[1]))


def tables(block_mask: Any, batch: int, heads: int, n_q: int, n: int) -> tuple[Tensor, Tensor | None]:
    """How often partial and full blocks are named, and in a last column how often one that there is none of."""
    grid = -(-n_q // block_mask.BLOCK_SIZE[0]), -(-n // block_mask.BLOCK_SIZE[1])
    own = (batch, heads, *grid)
    partial = _named("kv", block_mask.kv_num_blocks, block_mask.kv_indices, own)
    if block_mask.full_kv_num_blocks is None:
        return partial, None
    return partial, _named("full_kv", block_mask.full_kv_num_blocks, block_mask.full_kv_indices, own)


def _named(label: str, counts: Tensor, indices: Tensor, own: tuple[int, int, int, int]) -> Tensor:
    """Lists of blocks as a table."""
    batch, heads, rows, columns = own
    if indices.dim() != 4 or counts.shape != indices.shape[:3]:
        raise CallError(
            f"flex_attention: block_mask has {label}_num_blocks {tuple(counts.shape)} and {label}_indices "
            f"{tuple(indices.shape)}; they are (batch, heads, rows) and (batch, heads, rows, columns)"
        )
    if indices.shape[2] != rows:
        raise CallError(
            f"flex_attention: block_mask has {indices.shape[2]} rows in {label}_indices; its size wants {rows}"
        )
    if indices.shape[0] not in (1, batch) or indices.shape[1] not in (1, heads):
        raise CallError(
            f"flex_attention: block_mask is for a batch of {indices.shape[0]} and {indices.shape[1]} heads, and the "
            f"queries have {batch} and {heads}"
        )
    listed = torch.arange(indices.shape[3], device=indices.device) < counts[..., None]
    there = listed & (indices >= 0) & (indices < columns)
    times = torch.zeros((*indices.shape[:3], columns + 1), dtype=torch.int32, device=indices.device)
    return times.scatter_add(3, torch.where(there, indices, columns).long(), listed.int())


def told_by(relation: Relation, blocks: Listed, sizes: Sizes) -> bool:
    """Whether blocks are those of a relation: none left out that has pairs, none full that lacks some.

    False too where a relation cannot tell.
    """
    if not relation.exact or relation.reads_scalars:
        return False
    try:
        for h in range(sizes.heads):
            for b in range(sizes.batch):
                if (
                    (h or b)
                    and not any(relation.varies(relation.of_head(h), by) for by in "hb")
                    and _alike(blocks, b, h)
                ):
                    continue
                if not _as_counted(blocks, relation, sizes, b, h):
                    return False
    except (TooHard, TooIrregular):
        return False
    return True


def _alike(blocks: Listed, b: int, h: int) -> bool:
    """Whether the blocks of a head are those of the first one."""
    found = _of(blocks.partial, b, h), _of(blocks.partial, 0, 0)
    same = found[0] is found[1] or torch.equal(*found)
    return same and (blocks.full is None or torch.equal(_of(blocks.full, b, h), _of(blocks.full, 0, 0)))


def _of(blocks: Tensor, b: int, h: int) -> Tensor:
    return blocks[b if blocks.shape[0] > 1 else 0, h if blocks.shape[1] > 1 else 0]


def _as_counted(blocks: Listed, relation: Relation, sizes: Sizes, b: int, h: int) -> bool:
    rows, columns = blocks.size
    partial = _of(blocks.partial, b, h).cpu().numpy()
    full = np.zeros_like(partial) if blocks.full is None else _of(blocks.full, b, h).cpu().numpy()
    i, j = (x.ravel() for x in np.indices(partial.shape))
    ends = (i * rows, np.minimum((i + 1) * rows, sizes.n_q)), (j * columns, np.minimum((j + 1) * columns, sizes.n))
    pairs = count_boxes(relation.at(sizes, h, b), *ends, most=1 << 26)
    area = (ends[0][1] - ends[0][0]) * (ends[1][1] - ends[1][0])
    left_out = ~(partial | full).ravel()
    return not pairs[left_out].any() and bool((pairs == area)[full.ravel()].all())
