"""Attention by random features as a module that draws its projection anew from time to time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from attnspec.runtime.attention import Attention
from attnspec.runtime.linear.favor import drawn
from attnspec.runtime.modules.spec_attention import SpecAttention
from attnspec.spec.feature import size


class FavorAttention(SpecAttention):
    """A pattern with ``favor`` features, Performer's, whose projection is drawn anew while it trains.

    >>> import torch, attnspec.nn
    >>> layer = attnspec.nn.FavorAttention("performer_causal", dim=16, redraw_every=1000, features=32)
    >>> q, k, v = torch.randn(3, 1, 2, 100, 16).unbind(0)
    >>> layer(q, k, v).shape, layer.projection.shape
    (torch.Size([1, 2, 100, 16]), torch.Size([32, 16]))

    ``dim`` is the head size, and ``redraw_every`` how many calls in training mode a projection serves; with None only
    :meth:`redraw` draws another. (performer-pytorch, too, redraws after 1000 calls: ``feature_redraw_interval``.)
    Drawn are orthogonal rows as the spec says, on the CPU, from a seed that torch's generator gives when the layer is
    made, and then from the next one: in all processes that share a state the projections are the same.

    ``projection``, (features, dim), its ``seed`` and the number of its ``calls`` are buffers, so that a state_dict goes
    on where it was. Calls that activation checkpointing makes in the backward pass do not count; but what it computes
    again has the projection of that time: where several calls come before a backward pass, redraw between steps. Under
    torch.compile the graph breaks where calls are counted. Everything else is as in :class:`SpecAttention`.

    A mixture may have them in its branches: one projection serves all.

    Raises ValueError where the spec has no ``favor``, or several of unlike sizes.
    """

    projection: Tensor
    seed: Tensor
    calls: Tensor

    def __init__(
        self,
        source: str | os.PathLike[str] | Attention = "performer",
        *,
        dim: int,
        redraw_every: int | None = 1000,
        **options: Any,
    ) -> None:
        super().__init__(source, **options)
        if redraw_every is not None and redraw_every < 1:
            raise ValueError(f"redraw_every is a number of calls from 1 on, or None, not {redraw_every}")
        spec = self.attend.spec
        favors = (found for weights in spec.weighings for found in weights.favors)
        kinds = {(size(found, dim), found.scaling) for found in favors}
        if len(kinds) != 1:
            found = "has no favor(...) features" if not kinds else "has favor(...) features of unlike sizes or scaling"
            raise ValueError(f"{spec.name} {found}; a FavorAttention holds the projection of such features")
        self.redraw_every, ((self._features, self._scaling),) = redraw_every, kinds
        self.register_buffer("seed", torch.randint(2**62, (), device="cpu"))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("projection", torch.empty(self._features, dim))
        self._draw()

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, *, inputs: Mapping[str, Tensor] | None = None, **more: Any
    ) -> Any:
        """Attention of q (batch, heads, n_q, dim) to k and v, as :meth:`Attention.__call__` has it."""
        if self.training and self.redraw_every is not None:
            self._count()
        return super().forward(q, k, v, inputs=inputs, projection=self.projection, **more)

    def redraw(self) -> None:
        """Draw another projection."""
        self.seed += 1
        self.calls.zero_()
        self._draw()

    @_disable_dynamo
    def _count(self) -> None:
        if torch._C._current_graph_task_id() != -1:
            return  # checkpointing computes an earlier call again
        if self.redraw_every is not None and int(self.calls) >= self.redraw_every:
            self.redraw()
        self.calls += 1

    def _draw(self) -> None:
        """The projection of the seed, in place of the old one: gradients of earlier calls still need that."""
        rows = drawn(self._features, self.projection.shape[1], int(self.seed), self._scaling)
        self.projection = rows.to(self.projection)

    def extra_repr(self) -> str:
        """The pattern, the target, and when it draws anew."""
        return f"{super().extra_repr()}, dim={self.projection.shape[1]}, redraw_every={self.redraw_every}"
