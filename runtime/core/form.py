"""The form of a tensor: what prepared calls are found by.

>>> like((2, 3), (1, 2)).stride()
(1, 2)
"""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Callable

import torch
from torch import Tensor

Form = tuple[int, ...]
"""A shape, or strides."""
Room = tuple[Form, Form, torch.dtype]
"""What a tensor is made from: its shape, strides and element type."""

empty: Callable[[Form, Form, torch.dtype], Tensor] = torch._C._dynamo.guards._empty_strided_cpu  # type: ignore[attr-defined]
"""Makes a tensor on the CPU past the dispatcher, whatever it holds: as what torch.compile writes for CPUs does."""


_MUCH = 1 << 20
"""Bytes from which on zeros are worth a mapping of their own."""


def zeros(shape: Form, strides: Form, dtype: torch.dtype) -> Tensor:
    """Zeros on the CPU, contiguous. Many take no memory, and no time, before somebody writes to them.

    >>> zeros((2, 3), (3, 1), torch.float32).sum().item()
    0.0
    """
    size = math.prod(shape) * dtype.itemsize
    if size < _MUCH or sys.platform == "win32":
        return empty(shape, strides, dtype).zero_()
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def room(shape: Form, dtype: torch.dtype = torch.float32) -> Room:
    """What a contiguous tensor is made from."""
    return tuple(shape), torch.empty(shape, device="meta").stride(), dtype


def like(shape: Form, strides: Form, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor without memory that stands for those of a form."""
    return torch.empty_strided(shape, strides, dtype=dtype, device="meta")
