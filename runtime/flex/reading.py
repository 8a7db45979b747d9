"""``t[parts]`` as one read by position, as FlexAttention has it."""

from __future__ import annotations

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
