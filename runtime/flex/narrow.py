"""What PyTorch computes in few bits: integers wrap around and floats round, as whole numbers of ours do not."""

from __future__ import annotations

import torch

from attnspec.runtime.flex.bits import Unlike
from attnspec.runtime.flex.operations import ENTRYWISE
from attnspec.runtime.flex.trace import Step
from attnspec.runtime.flex.values import Ends

_INTEGERS = frozenset((torch.uint8, torch.int8, torch.int16))
_FLOATS = frozenset((torch.float16, torch.bfloat16))
_GROWS = frozenset(
    ("add", "sub", "rsub", "mul", "neg", "pow", "square", "sum", "bitwise_not", "bitwise_left_shift", "__lshift__")
)
_FILLS = frozenset(("full_like", "clamp", "clamp_min", "clamp_max"))


def check_width(step: Step, first: Ends, in_mask: bool) -> None:
    """Raise Unlike for a step whose numbers may not fit its type. ``first`` are bounds of what it takes first."""
    if in_mask and step.dtype in _FLOATS:
        raise Unlike(f"it is computed in {step.dtype}, which rounds positions: compare whole numbers")
    if step.dtype in _INTEGERS:
        cut = step.name == "_to_copy" and not (_fits(first, step.dtype) or _fits(_range(step.taken[0]), step.dtype))
        if step.name in _GROWS or cut:
            raise Unlike(f"it is computed in {step.dtype}, which numbers may overflow: read it as `.long()`")
    numbers = {dtype for dtype in step.taken if dtype != torch.bool}
    if len(numbers) == 1 and numbers <= _INTEGERS and (step.name in ENTRYWISE or step.name in _FILLS):
        (dtype,) = numbers
        for x in (*step.args, *step.kwargs.values()):
            if type(x) is int and not _fits((x, x), dtype):
                raise Unlike(f"{x} is no number of {dtype}, in which it is computed: read the tensor as `.long()`")


def _range(dtype: torch.dtype) -> Ends:
    if dtype == torch.bool:
        return 0, 1
    if dtype.is_floating_point:
        return None, None
    return torch.iinfo(dtype).min, torch.iinfo(dtype).max


def _fits(x: Ends, dtype: torch.dtype) -> bool:
    """Whether all numbers between two are of a type."""
    (low, high), kind = x, torch.iinfo(dtype)
    return low is not None and high is not None and kind.min <= low <= high <= kind.max
