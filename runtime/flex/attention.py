"""``flex_attention``: FlexAttention's signature over kernels of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from attnspec.runtime.core.arguments import CallError, check_vectors
from attnspec.runtime.core.visible import traced
from attnspec.runtime.flex.captured import outside_transforms
from attnspec.runtime.flex.judged import mask_of
from attnspec.runtime.flex.known import CallSizes, pattern


def flex_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: Callable[..., Any] | None = None,
    block_mask: Any = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    kernel_options: Mapping[str, Any] | None = None,
    *,
    return_aux: Any = None,
) -> Any:
    """``torch.nn.attention.flex_attention.flex_attention``, by kernels that know the pattern.

    >>> import torch
    >>> from torch.nn.attention.flex_attention import create_block_mask
    >>> from attnspec.flex import flex_attention
    >>> near = create_block_mask(lambda b, h, q, k: (q >= k) & (q - k < 64), None, None, 300, 300, device="cpu")
    >>> flex_attention(*torch.randn(3, 1, 2, 300, 16), block_mask=near).shape
    torch.Size([1, 2, 300, 16])

    Shapes, defaults and results are FlexAttention's: query (batch, heads, n_q, dim), key and value (batch, kv_heads, n,
    dim or dim_v), as many key heads as query heads unless ``enable_gqa``; with ``return_lse`` the log-sum-exp, float32,
    natural logarithm; with ``return_aux`` an ``AuxOutput``. It has gradients on the CPU too, also those of float
    tensors that a score_mod reads.

    A function is traced at its first call, as :func:`attnspec.flex.spec_of` does it, and found again by its code and
    the numbers around it: one that is made anew at each call, around other tensors, is traced and compiled once. What
    the text takes for granted of tensors (that document numbers never decrease, where documents begin) is looked at in
    every call; where it no longer holds the function is traced again. So it is in each call, a few milliseconds, where
    its parts cannot be told: tensors that it makes of others, ``.item()``, objects that make up their attributes.

    Of a BlockMask the mask function counts in partial blocks, full ones count whole, and others not at all. Where the
    function says that by itself, which is proven once for each BlockMask, tiles follow from the function; where it
    reads tables, the blocks are tables beside it. Without a function (``BlockMask.from_kv_blocks``) they are all.

    Under ``torch.compile`` it is in the graph, with the tensors around functions as inputs: other tensors take no new
    graph, other numbers do. Then blocks are tables always. A function that is made inside what is compiled breaks the
    graph, and so does one whose parts cannot be told.

    ``kernel_options`` tune FlexAttention's own kernels, and change nothing here. Raises CallError for tensors and
    BlockMasks that do not fit, and for functions that cannot be traced: with the line that is at fault.
    """
    if return_lse and return_aux is not None:
        raise CallError(
            "flex_attention: return_lse and return_aux are both given; return_aux=AuxRequest(lse=True) is it"
        )
    for label, t in (("query", query), ("key", key), ("value", value)):
        check_vectors("flex_attention", "auto", ("cpu", "cuda"), label, t)
    if query.shape[1] != key.shape[1] and not enable_gqa:
        raise CallError(
            f"flex_attention: query has {query.shape[1]} heads and key {key.shape[1]}: enable_gqa=True lets them share"
        )
    if key.shape[0] == value.shape[0] == 1 < query.shape[0] and block_mask is not None:
        key, value = key.expand(len(query), -1, -1, -1), value.expand(len(query), -1, -1, -1)
    sizes = CallSizes(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    attend: Any
    if torch.compiler.is_dynamo_compiling():
        from attnspec.runtime.flex import compiled  # which loads TorchDynamo

        mask_mod = None if block_mask is None else block_mask.mask_mod
        found = compiled.found((mask_mod, score_mod), block_mask, sizes)
        if found is None:
            given = (score_mod, block_mask, scale, enable_gqa, return_lse, kernel_options)
            return compiled.between_graphs(flex_attention, query, key, value, *given, return_aux=return_aux)
        attend, inputs, limits = found
    else:
        looks = not traced(query, key, value)
        with outside_transforms(score_mod, block_mask):
            attend, inputs, limits = pattern(mask_of(block_mask, sizes, query.device, looks), score_mod, sizes, looks)
    for limit in limits:
        limit.require(inputs)
    if return_aux is None:
        return attend(query, key, value, scale=scale, return_lse=return_lse, inputs=inputs)
    lse, largest = bool(return_aux.lse), bool(return_aux.max_scores)
    result = attend(query, key, value, scale=scale, return_lse=lse, return_max=largest, inputs=inputs)
    return _with_aux(result, lse, largest)


def _with_aux(result: Any, lse: bool, largest: bool) -> Any:
    from torch.nn.attention.flex_attention import AuxOutput

    if not (lse or largest):
        return result, AuxOutput(lse=None, max_scores=None)
    out, *more = result
    return out, AuxOutput(lse=more[0] if lse else None, max_scores=more[-1] if largest else None)
