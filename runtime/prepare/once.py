"""Gradients by kernels, which have none of their own: where one is asked for there is an error.

torch's ``once_differentiable`` hands gradients on without a graph where those that arrive have none: what
``create_graph`` is asked for would be dropped without a word.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attnspec.runtime.prepare.operator import refuse


def once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """The backward pass of an autograd function that is differentiable once.

    What gradients depend on must be saved as the function was given it.
    """

    @functools.wraps(backward)
    def refusing(ctx: Any, *upstream: Any) -> Any:
        with torch.no_grad():
            found = backward(ctx, *upstream)
        sources = (*ctx.saved_tensors, *upstream) if torch.is_grad_enabled() else ()
        learned = [t for t in sources if t is not None and t.requires_grad]
        return _Refuses.apply(found, *learned) if learned else found  # type: ignore[no-untyped-call]

    return refusing


class _Refuses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, found: Any, *sources: Tensor) -> Any:
        return found

    backward = staticmethod(refuse)
