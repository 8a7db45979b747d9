"""A pattern as a module, for models that are printed, hooked and replaced by modules."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from attnspec.runtime.attention import Attention, compile


class SpecAttention(nn.Module):
    """:func:`attnspec.compile` as a module without parameters, buffers or state.

    >>> import torch, attnspec.nn
    >>> layer = attnspec.nn.SpecAttention("window", width=64)
    >>> layer
    SpecAttention(window(width=64), target=auto)
    >>> q, k, v = torch.randn(3, 1, 2, 100, 16).unbind(0)
    >>> layer(q, k, v).shape
    torch.Size([1, 2, 100, 16])

    ``source`` is what :func:`attnspec.compile` takes, with its options and parameters, or an :class:`Attention` that is
    compiled already. What the module is called with goes to :meth:`Attention.__call__`: q, k, v, ``scale=``,
    ``return_lse=``, ``return_max=`` and the pattern's inputs by name.

    Raises SpecError where the pattern or a parameter is wrong; calls raise CallError.
    """

    def __init__(self, source: str | os.PathLike[str] | Attention, **options: Any) -> None:
        super().__init__()
        if isinstance(source, Attention):
            if options:
                raise TypeError(f"{source!r} is compiled already: {', '.join(sorted(options))} would have no effect")
            self.attend = source
        else:
            self.attend = compile(source, **options)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, *, inputs: Mapping[str, Tensor] | None = None, **more: Any
    ) -> Any:
        """Attention of q (batch, heads, n_q, dim) to k and v, as :meth:`Attention.__call__` has it."""
        return self.attend(q, k, v, inputs=inputs, **more)

    def extra_repr(self) -> str:
        """The pattern with its parameters, and the target."""
        return repr(self.attend).removeprefix("<attnspec ").removesuffix(">").replace(", target ", ", target=")
