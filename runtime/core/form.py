"""The form of a tensor: what prepared calls are found by.

>>> like((2, 3), (1, 2)).stride()
(1, 2)
"""

from __future__ import annotations

import torch
from torch import Tensor

Form = tuple[int, ...]
"""A shape, or strides."""


def like(shape: Form, strides: Form, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor without memory that stands for those of a form."""
    return torch.empty_strided(shape, strides, dtype=dtype, device="meta")
