"""The attention of a layer of transformers: an interface of attention, which calls one of ours."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.huggingface.asked import Asked
from attnspec.runtime.huggingface.programs import NO_MASK, Wanted, program
from attnspec.runtime.huggingface.standin import PLACES, Structure, is_standin, unpacked
from attnspec.runtime.huggingface.step import seen


def attention(asked: Asked) -> tuple[Tensor, None]:
    """Attention as a layer wants it, (batch, rows, heads, dim), and no weights.

    The mask is a stand-in, a mask of booleans (or 0 and minus infinity), (batch or 1, heads or 1, rows, keys), or None
    where the model makes none. Raises CallError for what cannot be honoured.
    """
    query, key, value, mask, bias = asked.query, asked.key, asked.value, asked.mask, asked.position_bias
    batch, heads, rows, _ = query.shape
    keys = key.shape[2]
    if mask is None:
        structure = _bare(asked, rows, keys)
        inputs = _places(batch, keys, query.device)
    elif is_standin(mask):
        cut = seen(mask, batch, keys) if rows == 1 and bias is None else None
        if cut is not None:
            structure, inputs, key, value = NO_MASK, {}, key[:, :, cut], value[:, :, cut]
        else:
            known, inputs = unpacked(mask, batch, keys)
            # A size that torch.compile takes for one that varies is no constant to it.
            structure = known.number if torch.compiler.is_compiling() else mask.shape[1]
    else:
        structure, inputs = _given(mask, query, keys)
    if asked.s_aux is not None:
        inputs["sinks"] = asked.s_aux
    if bias is not None:
        inputs["bias"] = bias.expand(batch, heads, rows, keys)
    attend = program(Wanted(structure, asked.softcap, asked.s_aux is not None, bias is not None))
    out = attend(query, key, value, scale=asked.scaling, inputs=inputs or None)
    return out.transpose(1, 2).contiguous(), None


def _bare(asked: Asked, rows: int, keys: int) -> int:
    """Where a model makes no mask: all pairs, or the causal ones of as many queries as keys, as in PyTorch's SDPA."""
    causal = asked.is_causal if asked.is_causal is not None else getattr(asked.module, "is_causal", None)
    name, window = asked.name, asked.sliding_window
    if window is not None:
        raise CallError(f"attnspec.transformers: {name} has a window of {window} keys, and no mask came with it")
    if causal is None and rows > 1:
        raise CallError(
            f"attnspec.transformers: no mask came to {name}, and it does not say whether it is causal (is_causal)"
        )
    if causal and rows not in (1, keys):
        raise CallError(
            f"attnspec.transformers: no mask came to {name}, which is causal, with {rows} queries and {keys} keys"
        )
    return _CAUSAL if causal and rows > 1 else _EVERY


def _places(batch: int, keys: int, device: torch.device) -> dict[str, Tensor]:
    """Queries and keys from the first position on, without padding."""
    numbers = zip(PLACES, (0, 0, 0, keys), strict=True)
    return {name: torch.full((batch,), number, dtype=torch.int32, device=device) for name, number in numbers}


_CAUSAL, _EVERY = Structure("k <= q").number, Structure().number


def _given(mask: Tensor, query: Tensor, keys: int) -> tuple[int, dict[str, Tensor]]:
    """A mask of every pair that the user made. Raises CallError for one that is no mask."""
    (batch, heads, rows, _), device = query.shape, query.device
    if mask.dim() != 4 or mask.shape[0] not in (1, batch) or mask.shape[1] not in (1, heads):
        raise CallError(
            f"attnspec.transformers: the mask has the shape {tuple(mask.shape)}; it must be (batch or 1, heads or 1, "
            f"queries, keys), here {(batch, heads, rows, keys)}"
        )
    if mask.shape[2] != rows or mask.shape[3] < keys:
        raise CallError(
            f"attnspec.transformers: the mask is of {mask.shape[2]} queries and {mask.shape[3]} keys; there are {rows} "
            f"and {keys}"
        )
    mask = mask[..., :keys]
    if mask.is_floating_point():
        mask = _of_numbers(mask)
    elif mask.dtype is not torch.bool:
        raise CallError(
            f"attnspec.transformers: the mask is {mask.dtype}: give one of booleans, True where a query sees a key"
        )
    warnings.warn(
        f"attnspec.transformers: a mask of 4 dimensions is read pair by pair, {rows} x {keys} of them for each batch "
        "entry: memory and time grow with their product. Say as a pattern what it means, with register(name, pattern)",
        stacklevel=2,
    )
    sizes = [
        size for size, all_alike in (("batch", mask.shape[0] == 1), ("heads", mask.shape[1] == 1)) if not all_alike
    ]
    at = [{"batch": "b", "heads": "h"}[size] for size in sizes]
    dims = tuple(dim for dim in (0, 1) if mask.shape[dim] == 1)
    lines = (
        f"input seen: bool[{', '.join([*sizes, 'n_q', 'n'])}]",
        f"attend seen[{', '.join([*at, 'q', 'k'])}]",
    )
    inputs = _places(batch, keys, device)
    inputs["seen"] = mask.squeeze(dims)
    return Structure(lines=lines).number, inputs


def _of_numbers(mask: Tensor) -> Tensor:
    """From what is added to scores to booleans. Raises CallError where it is more than a mask."""
    if mask.requires_grad:
        raise CallError("attnspec.transformers: the mask asks for gradients: a bias of scores is no mask. Use eager")
    seen, hidden = mask == 0, mask <= torch.finfo(mask.dtype).min
    if not bool((seen | hidden).all()):
        raise CallError(
            "attnspec.transformers: the mask has numbers besides 0 (seen) and minus infinity, or the least of its "
            "dtype (hidden): it is a bias of scores, which this cannot take for a mask. Write it as a pattern with a "
            'score line, attnspec.transformers.register(name, pattern), or use attn_implementation="eager"'
        )
    return seen
