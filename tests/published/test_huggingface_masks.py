"""Mask functions of transformers, and others, as patterns: pair by pair what transformers makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import masking_utils as made

from attnspec.runtime.core.errors import CallError
from attnspec.runtime.huggingface import masks
from attnspec.runtime.huggingface.formulas import Written, predicate
from attnspec.runtime.huggingface.programs import Wanted, program
from attnspec.runtime.huggingface.recorded import recorded
from attnspec.runtime.huggingface.standin import unpacked

BATCH, KEYS = 3, 21
BLOCKS = torch.tensor([[-1] * 4 + [0] * 5 + [-1] * 2 + [1] * 6 + [-1] * 11]).expand(BATCH, -1)
ROW = BLOCKS[0]
POSITIONS = torch.cat([torch.arange(3, 10), torch.arange(2), torch.arange(12)])[None].expand(BATCH, -1)
DOCUMENTS = (POSITIONS.diff(prepend=POSITIONS[:, :1] - 1) != 1).cumsum(-1)
LEFT = torch.tensor([0, 5, 11])


def restarting(function: Any) -> Any:
    """As masks of packed documents are put together: from 5.24 on with their own positions."""
    if hasattr(made, "remap_positions_for_packed_sequence"):
        function = made.remap_positions_for_packed_sequence(function, POSITIONS)
    return made.and_masks(function, made.packed_sequence_mask_function(DOCUMENTS))


FUNCTIONS: dict[str, Callable[[], Any]] = {
    "causal": lambda: made.causal_mask_function,
    "all": lambda: made.bidirectional_mask_function,
    "window": lambda: made.sliding_window_causal_mask_function(6),
    "band": lambda: made.sliding_window_bidirectional_mask_function(6),
    "chunks": lambda: made.chunked_causal_mask_function(6, LEFT),
    "images": lambda: made.or_masks(made.causal_mask_function, made.blockwise_overlay(BLOCKS)),
    "images in a window": lambda: made.and_masks(
        made.or_masks(made.causal_mask_function, made.blockwise_overlay(BLOCKS)), made.sliding_window_overlay(6)
    ),
    "two windows": lambda: made.or_masks(
        made.sliding_window_causal_mask_function(3), made.chunked_causal_mask_function(6, LEFT)
    ),
    "padding": lambda: made.and_masks(made.causal_mask_function, made.padding_mask_function(BLOCKS < 1)),
    "everything or": lambda: made.or_masks(made.bidirectional_mask_function, made.causal_mask_function),
    "documents": lambda: restarting(made.causal_mask_function),
    "documents, window": lambda: restarting(made.sliding_window_causal_mask_function(4)),
    "documents, chunks": lambda: restarting(made.chunked_causal_mask_function(4, torch.zeros(3, dtype=torch.long))),
}


def found(function: Any, queries: int, keys: int, **more: Any) -> Tensor:
    """What our stand-in means, pair by pair."""
    mask = masks.mask(batch_size=BATCH, q_length=queries, kv_length=keys, mask_function=function, **more)
    _, inputs = unpacked(mask, BATCH, keys)
    return program(Wanted(mask.shape[1])).mask(keys, queries, heads=1, batch=BATCH, inputs=inputs).bool()


def wanted(function: Any, queries: int, keys: int, **more: Any) -> Tensor:
    """What transformers' mask for SDPA says."""
    found = made.sdpa_mask(BATCH, queries, keys, mask_function=function, allow_is_causal_skip=False, **more)
    return found.expand(BATCH, 1, queries, keys)


QUICK = ("chunks", "images in a window", "documents, window")
HERE = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FUNCTIONS]


@pytest.mark.parametrize("how", ["by code", "by what it does"])
@pytest.mark.parametrize("name", HERE)
def test_masks(name: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, with padding on either side and with holes; queries and keys of a cache that has dropped some."""
    function = FUNCTIONS[name]()
    if how == "by what it does":
        monkeypatch.setattr(masks, "predicate", lambda function, written: recorded(function, written, "cpu"))
    left = torch.arange(KEYS) >= LEFT[:, None]
    holes = left & (torch.arange(KEYS) % 7 != 5)
    for mask in (None, left, left.flip(1), holes, torch.zeros(BATCH, KEYS, dtype=torch.bool)):
        assert torch.equal(
            found(function, KEYS, KEYS, attention_mask=mask), wanted(function, KEYS, KEYS, attention_mask=mask)
        )
    if not name.startswith("documents"):
        cached = {"q_offset": 17, "kv_offset": 12, "attention_mask": left}
        assert torch.equal(found(function, 4, 9, **cached), wanted(function, 4, 9, **cached))
        static = {"q_offset": torch.tensor(8), "attention_mask": left[:, :9]}  # the tail is not written yet
        assert torch.equal(found(function, 1, KEYS, **static), wanted(function, 1, KEYS, **static))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_all_of_transformers_own_are_known_by_their_code(name: str) -> None:
    text = predicate(FUNCTIONS[name](), Written(KEYS, 0))
    assert (text is None) == (name in ("all", "everything or"))


def test_numbers_are_no_part_of_a_structure() -> None:
    """Other windows and lengths are the same pattern: its kernel is there."""
    shapes = set()
    for width, keys in ((4, 9), (6, 21), (700, 40)):
        mask = masks.mask(
            batch_size=1, q_length=1, kv_length=keys, mask_function=made.sliding_window_causal_mask_function(width)
        )
        shapes.add((mask.shape[1], mask.shape[3]))
    assert len(shapes) == 1


OTHERS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "sinks": lambda b, h, q, k: (k < 4) | (q - k < 3) & (k <= q),
    "dilated": lambda b, h, q, k: ((q - k) % 3 == 0) & (q >= k),
    "blocks": lambda b, h, q, k: ~(q // 5 != k // 5),
    "far": lambda b, h, q, k: abs(2 * q - k - 7) > 5,
    "of one row": lambda b, h, q, k: (ROW[q] == ROW[k]) & (q >= k),
    "kinds": lambda b, h, q, k: (BLOCKS[b, q] > BLOCKS[b, k]) | (LEFT[b] <= k),
}


@pytest.mark.parametrize("name", OTHERS)
def test_functions_of_others(name: str) -> None:
    function = OTHERS[name]
    for more in ({}, {"q_offset": 17, "kv_offset": 12}):
        queries, keys = (4, 9) if more else (KEYS, KEYS)
        assert torch.equal(found(function, queries, keys, **more), wanted(function, queries, keys, **more))


def test_what_is_not_understood_is_evaluated() -> None:
    """With a warning that says what it is, and how many pairs."""

    def odd(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return torch.where(q % 2 == 0, k <= q, k == q)

    with pytest.warns(UserWarning, match=r"not understood \(`where`.* 4 x 9 of them"):
        mask = masks.mask(
            batch_size=BATCH, q_length=4, kv_length=9, q_offset=5, kv_offset=0, mask_function=odd, attention_mask=None
        )
    assert torch.equal(mask, wanted(odd, 4, 9, q_offset=5))


@pytest.mark.parametrize("name", ["window", "documents"])
def test_a_stand_in_says_for_how_many_keys_it_is_and_copies_grow_with_them(name: str) -> None:
    def copied() -> Tensor:
        mask = masks.mask(batch_size=BATCH, q_length=KEYS, kv_length=KEYS, mask_function=FUNCTIONS[name]())
        return mask.clone(memory_format=torch.contiguous_format)

    mask = copied()
    assert mask.numel() <= 8 * BATCH * mask.shape[1] * KEYS
    assert unpacked(mask, BATCH, KEYS)[1].keys()
    for batch, keys in ((BATCH, KEYS - 1), (BATCH + 1, KEYS)):
        with pytest.raises(CallError, match=f"the mask is of {BATCH} batch entries and {KEYS} keys"):
            unpacked(copied(), batch, keys)
