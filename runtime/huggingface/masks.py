"""What transformers asks for where it would make a mask: a stand-in for it, without a mask of queries times keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import causal_mask_function

from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.huggingface.formulas import MaskFunction, Unknown, Written, predicate
from attnspec.runtime.huggingface.standin import Field, Structure, packed

ANYWHERE = 1 << 29
"""A position behind all others: where real keys end that have no padding behind them."""
_HOLES = Field("real", "bool")


def mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: MaskFunction = causal_mask_function,
    attention_mask: Tensor | None = None,
    device: torch.device | str = "cpu",
    **more: Any,
) -> Tensor:
    """An interface of masks: the stand-in for a mask function of transformers, with the padding that it is given.

    Raises CallError for a function that cannot be read.
    """
    written = Written(kv_length, kv_offset)
    try:
        text = predicate(mask_function, written)
    except Unknown as unknown:
        raise CallError(f"attnspec.transformers: the mask function {unknown} is none of transformers' own") from None
    start, stop, real = padding(attention_mask, kv_length, kv_offset)
    lines = [] if text is None else [f"attend ({text}) at (q + query_start - key_start, k)"]
    fields = dict(written.fields)
    if real is not None:
        lines.append("within real[b, k]")
        fields[_HOLES] = real
    structure = Structure(tuple(lines), tuple(written.numbers), tuple(fields))
    columns = [q_offset, kv_offset, start, stop, *written.numbers.values()]
    of_keys = [t[:, kv_offset : kv_offset + kv_length] for t in fields.values()]
    return packed(structure, batch_size, kv_length, columns, of_keys, device)


def padding(
    attention_mask: Tensor | None, keys: int, key_start: int
) -> tuple[int | Tensor, int | Tensor, Tensor | None]:
    """Where the real keys begin and end, one for all or (batch,); where padding is among them, which are real.

    ``attention_mask`` is (batch, positions), of which positions behind it are padding, as of an unwritten cache.
    """
    if attention_mask is None:
        return 0, ANYWHERE, None
    there = attention_mask.bool()
    count, length = there.sum(1), there.shape[1]
    if bool((count == length).all()):
        return 0, length, None
    places = torch.arange(length, device=there.device)
    start = torch.where(there, places, length).amin(1)
    stop = torch.where(there, places + 1, 0).amax(1)
    start = torch.minimum(start, stop)  # without any real key nothing is seen
    if bool((stop - start == count).all()):
        return start, stop, None
    missing = key_start + keys - length
    return start, stop, torch.nn.functional.pad(there, (0, missing)) if missing > 0 else there
