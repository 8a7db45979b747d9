"""What a BlockMask allows: its partial blocks by its mask function, its full ones whole, and no other blocks.

Where the blocks are those that the function has anyway, the function says it all; else they are tables beside it.
"""

from __future__ import annotations

from collections.abc import Callable
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
_EVALUATED = 1 << 28
"""Pairs that are evaluated to compare a function with blocks; beyond that blocks become tables unseen."""
_AT_ONCE = 1 << 22
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
        partial = self._read(self.partial)
        if self.full is None:
            return lambda b, h, q_idx, kv_idx: partial(b, h, q_idx, kv_idx) & mask_mod(b, h, q_idx, kv_idx)
        full = self._read(self.full)
        return lambda b, h, q_idx, kv_idx: (
            full(b, h, q_idx, kv_idx) | (partial(b, h, q_idx, kv_idx) & mask_mod(b, h, q_idx, kv_idx))
        )

    def _read(self, blocks: Tensor) -> MaskMod:
        rows, columns = self.size
        if blocks.shape[:2] == (1, 1):
            keep = blocks[0, 0]
            return lambda b, h, q_idx, kv_idx: keep[q_idx // rows, kv_idx // columns]
        if blocks.shape[0] == 1:
            keep = blocks[0]
            return lambda b, h, q_idx, kv_idx: keep[h, q_idx // rows, kv_idx // columns]
        if blocks.shape[1] == 1:
            keep = blocks[:, 0]
            return lambda b, h, q_idx, kv_idx: keep[b, q_idx // rows, kv_idx // columns]
        keep = blocks
        return lambda b, h, q_idx, kv_idx: keep[b, h, q_idx // rows, kv_idx // columns]


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
    size = tuple(block_mask.BLOCK_SIZE)
    grid = -(-n_q // size[0]), -(-n // size[1])
    partial = _dense("kv", block_mask.kv_num_blocks, block_mask.kv_indices, grid)
    full = None
    if block_mask.full_kv_num_blocks is not None:
        full = _dense("full_kv", block_mask.full_kv_num_blocks, block_mask.full_kv_indices, grid)
        if (partial & full).any():
            raise CallError(
                "flex_attention: block_mask lists a block as a partial and as a full one: its keys would count twice"
            )
    for blocks in (partial, *([] if full is None else [full])):
        if blocks.shape[0] not in (1, batch) or blocks.shape[1] not in (1, heads):
            raise CallError(
                f"flex_attention: block_mask is for a batch of {blocks.shape[0]} and {blocks.shape[1]} heads, and the "
                f"queries have {batch} and {heads}"
            )
    return Listed(partial, full, (size[0], size[1]))


def _dense(label: str, counts: Tensor, indices: Tensor, grid: tuple[int, int]) -> Tensor:
    """Lists of blocks as a table."""
    rows, columns = grid
    if indices.dim() != 4 or counts.shape != indices.shape[:3]:
        raise CallError(
            f"flex_attention: block_mask has {label}_num_blocks {tuple(counts.shape)} and {label}_indices "
            f"{tuple(indices.shape)}; they are (batch, heads, rows) and (batch, heads, rows, columns)"
        )
    if indices.shape[2] != rows:
        raise CallError(
            f"flex_attention: block_mask has {indices.shape[2]} rows in {label}_indices; its size wants {rows}"
        )
    named = torch.arange(indices.shape[3], device=indices.device) < counts[..., None]
    at = torch.where(named, indices, columns).long()
    times = torch.zeros((*indices.shape[:3], columns + 1), dtype=torch.int32, device=indices.device)
    if bool(((at < 0) | (at > columns)).any()) or bool((named & (indices == columns)).any()):
        raise CallError(f"flex_attention: block_mask names blocks in {label}_indices that there are none of")
    times = times.scatter_add_(3, at, named.int())[..., :columns]
    if bool((times > 1).any()):
        raise CallError(
            f"flex_attention: block_mask names a block twice in {label}_indices: its keys would count twice"
        )
    return times > 0


def told_by_relation(blocks: Listed, relation: Relation, sizes: Sizes) -> bool | None:
    """Whether blocks are those of an exact relation: none left out that has pairs, none full that lacks some.

    None where the relation cannot tell.
    """
    if not relation.exact or relation.reads_scalars:
        return None
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
        return None
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


def told_by_pairs(blocks: Listed, mask_mod: MaskMod, sizes: Sizes) -> bool | None:
    """The same by evaluating the function at all pairs; None where these are too many."""
    if sizes.batch * sizes.heads * sizes.n_q * sizes.n > _EVALUATED:
        return None
    evaluate, device = _over_pairs(mask_mod), blocks.partial.device
    (rows, columns), keys = blocks.size, torch.arange(sizes.n, device=device)
    block_of_key = keys // columns
    step = max(1, _AT_ONCE // max(1, sizes.n))
    for b in torch.arange(sizes.batch, device=device):
        for h in torch.arange(sizes.heads, device=device):
            some, whole = _of(blocks.any, int(b), int(h)), None
            if blocks.full is not None:
                whole = _of(blocks.full, int(b), int(h))
            for start in range(0, sizes.n_q, step):
                queries = torch.arange(start, min(start + step, sizes.n_q), device=device)
                seen = evaluate(b, h, queries, keys)
                at = (queries // rows)[:, None], block_of_key
                if bool((seen & ~some[at]).any()) or (whole is not None and bool((whole[at] & ~seen).any())):
                    return False
    return True


def _over_pairs(mask_mod: MaskMod) -> MaskMod:
    from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

    by_key = torch.vmap(mask_mod, in_dims=(None, None, None, 0))
    by_pair = torch.vmap(by_key, in_dims=(None, None, 0, None))

    def evaluate(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        with TransformGetItemToIndex():
            found = by_pair(b, h, q, k)
        return found.expand(len(q), len(k))

    return evaluate
