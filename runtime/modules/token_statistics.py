"""Token statistics attention as a module: tokens grouped among heads by their second moments over a pattern."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attnspec.runtime.attention import Attention, compile
from attnspec.runtime.core.arguments import CallError, check_vectors
from attnspec.runtime.targets import kinds

_LEAST_SUM, _LEAST_SHARE = 1e-12, 1e-8  # of the published code: a sum of squares is at least, to one of shares is added


class TokenStatistics(nn.Module):
    """Token statistics attention (ToST: Wu et al., 2025), between two projections that are the model's.

    >>> import torch, attnspec
    >>> layer = attnspec.TokenStatistics("tost", heads=2, length=100)
    >>> layer
    TokenStatistics(tost, heads=2, length=100, target=auto)
    >>> layer(torch.randn(1, 2, 100, 16)).shape
    torch.Size([1, 2, 100, 16])

    With w the projected tokens, s their squares, ``sum`` over the tokens that a row sees, and products by entry::

        u = s / max(sum(s), 1e-12) + denom_bias
        pi = softmax over heads of (temp * sum over entries of u)
        out = -w * pi / (1 + sum(pi * s) / (sum(pi) + 1e-8))

    Only the sums know positions, so any pattern can stand for the published causal one, ``tost``: a spec with the line
    ``linear 1`` and none of ``divide``, ``decay``, ``delta`` and ``scale``. ``attention whole { linear 1 }`` is the
    form for images (there the norm is at least 1e-12, here its square), ``attention packed_tost { include packed
    linear 1 }`` that for packed documents. Learned are ``temp``, (heads, 1), from 1, and, with ``length``,
    ``denom_bias``, (heads, length, 1), from 0, one for each position: sequences then have ``length`` tokens at most.
    Both are called as in the published code. ``options`` are those of :func:`attnspec.compile`.

    A call takes w, (batch, heads, n, dim), and the pattern's inputs by name, and gives the same shape and dtype.
    Squares and sums are float32, also under autocast (float64 with target "dense"). A row that sees no token gives
    -w * pi.

    Raises SpecError where the pattern is wrong, ValueError where it is not one of sums; calls raise CallError.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Attention = "tost",
        *,
        heads: int,
        length: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if isinstance(source, Attention) and options:
            raise TypeError(f"{source!r} is compiled already: {', '.join(sorted(options))} would have no effect")
        self.attend = source if isinstance(source, Attention) else compile(source, **options)
        spec = self.attend.spec
        said = "; ".join([*str(spec.weights).splitlines(), *([] if spec.scale is None else [f"scale {spec.scale:g}"])])
        if said != "linear 1":
            raise ValueError(
                f"{spec.name}: token statistics are sums over a pattern, whose weights are `linear 1`, not `{said}`. "
                f"Another spec can take its pairs: attention sums {{ include window  linear 1 }}"
            )
        self.heads, self.length = heads, length
        self.temp = nn.Parameter(torch.ones(heads, 1))
        self.denom_bias = None if length is None else nn.Parameter(torch.zeros(heads, length, 1))

    def forward(self, w: Tensor, *, inputs: Mapping[str, Tensor] | None = None, **more: Any) -> Tensor:
        """What each token gives, (batch, heads, n, dim), of w's dtype."""
        self._check(w)

        def sums(x: Tensor) -> Tensor:
            found: Tensor = self.attend(v=x, inputs=inputs, **more)
            return found

        with torch.autocast(w.device.type, enabled=False):
            x = w if w.dtype == torch.float64 else w.float()
            squares = x.square()
            told = (squares / sums(squares).clamp_min(_LEAST_SUM)).sum(-1)
            if self.denom_bias is not None:
                told = told + x.shape[-1] * self.denom_bias[:, : x.shape[2], 0]
            share = (self.temp * told).softmax(1)[..., None]
            moments = sums(share * squares) / (sums(share) + _LEAST_SHARE)
            return (-x * share / (1 + moments)).to(w.dtype)

    def _check(self, w: Tensor) -> None:
        name, target = self.attend.__name__, self.attend.program.target
        check_vectors(name, target, kinds(target), "w", w, "(batch, heads, n, dim)")
        if w.shape[1] != self.heads:
            raise CallError(f"{name}: the layer has {self.heads} heads; w has {w.shape[1]}: {tuple(w.shape)}")
        if self.length is not None and w.shape[2] > self.length:
            raise CallError(
                f"{name}: the layer has a bias for each of {self.length} positions; w has {w.shape[2]}: "
                f"{tuple(w.shape)}"
            )

    def extra_repr(self) -> str:
        """The pattern with its parameters, heads and length, and the target."""
        pattern, target = repr(self.attend).removeprefix("<attnspec ").removesuffix(">").split(", target ")
        length = "" if self.length is None else f", length={self.length}"
        return f"{pattern.removesuffix('()')}, heads={self.heads}{length}, target={target}"
