"""What transformers asks for where it would make a mask: a stand-in for it, without a mask of queries times keys."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function, sdpa_mask

from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.huggingface.formulas import CAUSAL, MaskFunction, Unknown, Written, predicate
from attnspec.runtime.huggingface.models import check_takes_ours
from attnspec.runtime.huggingface.recorded import recorded
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
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    config: Any = None,
    **more: Any,
) -> Tensor:
    """An interface of masks: the stand-in for a mask function, with the padding that it is given.

    Where a function does what the language has nothing for it is the mask of all pairs, with a warning. Raises
    CallError where the model that asks, by its ``config``, would compute with it, and for padding of another shape.
    """
    check_takes_ours(config)
    written = Written(kv_length, kv_offset)
    try:
        text = _text(mask_function, written, device)
    except Unknown as unknown:
        if not torch.compiler.is_compiling():
            warnings.warn(
                f"attnspec.transformers: a mask function of this model is not understood ({unknown}): it is evaluated "
                f"for all pairs, {q_length} x {kv_length} of them for each batch entry",
                stacklevel=2,
            )
        whole: Tensor = sdpa_mask(
            batch_size=batch_size,
            q_length=q_length,
            kv_length=kv_length,
            q_offset=q_offset,
            kv_offset=kv_offset,
            mask_function=mask_function,
            attention_mask=attention_mask,
            allow_is_causal_skip=False,
            use_vmap=use_vmap,
            device=device,
        )
        return whole
    if attention_mask is not None and attention_mask.dim() != 2:
        raise CallError(
            f"attnspec.transformers: attention_mask has the shape {tuple(attention_mask.shape)}: give one of (batch, "
            "positions), which says what is padding, or of (batch, 1, queries, keys)"
        )
    start, stop, real = padding(attention_mask, kv_length, kv_offset)
    fields = written.fields if real is None else [*written.fields, (_HOLES, real)]
    structure = Structure(
        text or "",
        () if real is None else ("within real[b, k]",),
        tuple([name for name, _ in written.numbers]),
        tuple([declared for declared, _ in fields]),
        bool(text) and (isinstance(q_offset, Tensor) or q_offset != kv_offset),
    )
    columns = [q_offset, kv_offset, start, stop, *[value for _, value in written.numbers]]
    of_keys = [t[..., kv_offset : kv_offset + kv_length] for _, t in fields]
    return packed(structure, batch_size, kv_length, columns, of_keys, device)


def _text(function: MaskFunction, written: Written, device: torch.device | str) -> str | None:
    """The predicate: of what is known by its code, where that can be looked into, and of all else by what it does."""
    if function is causal_mask_function:
        return CAUSAL
    if function is bidirectional_mask_function:
        return None
    if not torch.compiler.is_compiling():
        try:
            return predicate(function, written)
        except Unknown:
            written.clear()
    return recorded(function, written, device)


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
    traced = torch.compiler.is_compiling()
    if not traced and bool((count == length).all()):
        return 0, length, None
    places = torch.arange(length, device=there.device)
    start = torch.where(there, places, length).amin(1)
    stop = torch.where(there, places + 1, 0).amax(1)
    start = torch.minimum(start, stop)  # without any real key nothing is seen
    whole = (stop - start == count).all()
    if traced:
        torch._assert_async(
            whole,
            "attnspec.transformers: padding lies between real tokens, which a compiled graph cannot look at: pad on "
            "one side alone, or call the model without torch.compile",
        )
    if traced or bool(whole):
        return start, stop, None
    missing = key_start + keys - length
    return start, stop, torch.nn.functional.pad(there, (0, missing)) if missing > 0 else there
