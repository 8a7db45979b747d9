"""``t[parts]`` as one read by position, as FlexAttention has it, and what other functions read as such reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def read(t: Tensor, parts: tuple[Any, ...]) -> Tensor:
    """``t[parts]`` where some of them are tensors: first all others, then these at once."""
    if any(isinstance(x, Tensor) and x.dtype == torch.uint8 for x in parts):
        raise TypeError(
            "an index of torch.uint8 selects as a mask does: make it an integer before, as in `index.long()`"
        )
    if Ellipsis in [x for x in parts if not isinstance(x, Tensor)]:
        at = next(i for i, x in enumerate(parts) if x is Ellipsis)
        given = sum(x is not None for x in parts) - 1
        parts = (*parts[:at], *[slice(None)] * (t.dim() - given), *parts[at + 1 :])
    if all(isinstance(x, Tensor | int) and not isinstance(x, bool) for x in parts):
        parts = tuple(x if isinstance(x, Tensor) else torch.tensor(x, device=t.device) for x in parts)
    plain = tuple(slice(None) if isinstance(x, Tensor) else x for x in parts)
    if any(x != slice(None) for x in plain):
        t = t[plain]
    left = [x for x in parts if not isinstance(x, int) or isinstance(x, bool)]  # integers took their dimensions away
    result: Tensor = torch.ops.aten.index.Tensor(t, [x if isinstance(x, Tensor) else None for x in left])
    return result


def _embedding(at: Tensor, weight: Tensor, padding_idx: Any = None, max_norm: Any = None, **more: Any) -> Any:
    if padding_idx is not None or max_norm is not None:
        return torch.nn.functional.embedding(at, weight, padding_idx, max_norm, **more)  # other gradients, or rows
    return read(weight, (torch.where(at < 0, len(weight), at),))  # it does not count from the end


def _bucketize(x: Any, boundaries: Tensor, *, right: bool = False, **more: Any) -> Any:
    """The number of boundaries up to a number, which is its place where these rise."""
    if boundaries.dim() != 1 or not bool((boundaries[1:] >= boundaries[:-1]).all()):
        return torch.bucketize(x, boundaries, right=right, **more)
    return ((boundaries <= x) if right else (boundaries < x)).sum()


def _searchsorted(boundaries: Tensor, x: Any, *, right: bool = False, side: str = "left", **more: Any) -> Any:
    if more.get("sorter") is not None:
        return torch.searchsorted(boundaries, x, right=right, side=side, **more)
    return _bucketize(x, boundaries, right=right or side == "right")


OTHERS: Mapping[Any, Callable[..., Any]] = {
    torch.nn.functional.embedding: _embedding,
    torch.bucketize: _bucketize,
    torch.searchsorted: _searchsorted,
}
"""By the function: the same by reads and comparisons, where it is the same."""
