"""Whether Python may look at the numbers in tensors, and build on what it finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attnspec.runtime.core.arguments import CallError

if TYPE_CHECKING:
    from numpy.typing import NDArray


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


def traced(*tensors: Tensor) -> bool:
    """Whether what a call does must be operators: it is compiled, exported or recorded, or there are no numbers.

    Not inside the transforms of torch.func alone, which go through operations of tensors one by one.
    """
    if torch.compiler.is_compiling():
        return True
    recorded = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None  # make_fx
    return not transforming() and (recorded or not visible(*tensors))


def everything(t: Tensor) -> Tensor:
    """A tensor without the wrappers of transforms: what vmap maps is whole, with a dimension more somewhere."""
    while torch._C._functorch.is_functorch_wrapped_tensor(t):
        t = torch._C._functorch.get_unwrapped(t)
    return t


def array(t: Tensor) -> NDArray[Any]:
    """A tensor as an array, inside transforms too. Raises CallError where vmap maps it."""
    while torch._C._functorch.is_functorch_wrapped_tensor(t):
        if torch._C._functorch.is_batchedtensor(t):
            raise CallError(
                'target="dense" evaluates masks in Python: vmap may map q, k, v and float inputs, but no inputs of '
                "integers or booleans"
            )
        t = torch._C._functorch.get_unwrapped(t)
    with torch._C._DisableFuncTorch():
        return t.numpy(force=True)
