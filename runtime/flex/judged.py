"""The mask function of a BlockMask, found once for each: its own, where that says all, or one with tables of blocks."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.flex.blocks import Listed, MaskMod, check_lengths, listed, seen, tables, told_by
from attnspec.runtime.flex.known import CallSizes, pattern
from attnspec.runtime.flex.structure import structure

_TABLES = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")


@dataclass(frozen=True)
class _Judged:
    """What a BlockMask was found to say, and what it was made of then: code, and tensors with their versions.

    ``mask`` is None where its own function says all.
    """

    key: Hashable
    seen: tuple[tuple[ref[Tensor], int], ...]
    mask: MaskMod | None

    def holds(self, key: Hashable, tensors: Sequence[Tensor]) -> bool:
        return key == self.key and all(
            t is then() and t._version == version for t, (then, version) in zip(tensors, self.seen, strict=True)
        )


_judged: WeakKeyDictionary[Any, _Judged] = WeakKeyDictionary()


def mask_of(block_mask: Any, sizes: CallSizes, device: torch.device, looks: bool = True) -> MaskMod | None:
    """The mask function that says all that a BlockMask allows; None where it allows everything.

    Unless it ``looks`` at what tensors hold, that is blocks beside the function. Raises CallError where it does not fit
    a call.
    """
    from torch.nn.attention import flex_attention as theirs

    if block_mask is None:
        return None
    if not isinstance(block_mask, theirs.BlockMask):
        raise CallError(f"flex_attention: block_mask is a BlockMask, not {type(block_mask).__name__}")
    function = block_mask.mask_mod
    if function is getattr(theirs, "_sliced_mask_mod_error", None):  # a private name
        raise CallError(
            "flex_attention: block_mask was sliced, which takes its mask_mod away: give it that of the whole, at the "
            "positions of the slice, `part.mask_mod = lambda b, h, q, k: whole.mask_mod(b, h, q + start, k)`"
        )
    if block_mask.kv_num_blocks.device != device:
        raise CallError(f"flex_attention: query is on {device} and block_mask on {block_mask.kv_num_blocks.device}")
    if not check_lengths(block_mask, sizes.n_q, sizes.n):
        return None if function is theirs.noop_mask else function
    if not looks:
        return _with_blocks(seen(*tables(block_mask, *sizes), block_mask.BLOCK_SIZE), function)
    own = [t for name in _TABLES if (t := getattr(block_mask, name)) is not None]
    made_of = structure(function)
    if made_of is None or any(t.is_inference() for t in (*own, *made_of.tensors)):  # what may change unseen
        return _with_blocks(listed(block_mask, *sizes), function)
    key, tensors = (made_of.key, sizes, len(own)), (*own, *made_of.tensors)
    before = _judged.get(block_mask)
    if before is None or not before.holds(key, tensors):
        blocks = listed(block_mask, *sizes)
        alone = function is not theirs.noop_mask and _says_all(blocks, function, sizes)
        versions = tuple((ref(t), t._version) for t in tensors)
        before = _judged[block_mask] = _Judged(key, versions, None if alone else _with_blocks(blocks, function))
    return before.mask or function


def _with_blocks(blocks: Listed, function: MaskMod) -> MaskMod:
    from torch.nn.attention.flex_attention import noop_mask

    return blocks.alone() if function is noop_mask else blocks.beside(function)


def _says_all(blocks: Listed, function: MaskMod, sizes: CallSizes) -> bool:
    """Whether blocks are those of a function anyway; False too where only tensors can tell."""
    attention = pattern(function, None, sizes).attention
    relation = attention.relation_for(heads=sizes.heads, kv_heads=sizes.heads, batch=sizes.batch)
    return told_by(relation, blocks, Sizes(sizes.n, sizes.n_q, sizes.heads, sizes.heads, sizes.batch, False))
