"""Whether Python may look at the numbers in tensors, and build on what it finds."""

from __future__ import annotations

import torch
from torch import Tensor


def transforming() -> bool:
    """Whether a transform of torch.func is active: vmap, grad, jvp and what is made of them."""
    return torch._C._are_functorch_transforms_active()


def visible(*tensors: Tensor) -> bool:
    """Whether tensors hold numbers that are those of one call.

    Not while torch.compile traces or torch.func transforms, not in tensors on the device meta, fake ones or those of
    other subclasses. There everything must be left to operators of tensors.
    """
    if torch.compiler.is_compiling() or transforming():
        return False
    return all(type(t) in (Tensor, torch.nn.Parameter) and t.device.type != "meta" for t in tensors)
