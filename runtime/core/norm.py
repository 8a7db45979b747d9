"""What the weights of a row are relative to, as kernels keep it for backward: (3, batch, heads, n_q), float32.

First a score not far below the row's largest, in units of the kernel's scores (natural ones where there are score
lines, else those of log2), minus infinity where the row sees nothing; then log2 of the sum of the weights relative to
it. The log-sum-exp would not do: it has no room for the second beside scores near 1e9.

Third, for those who ask, the row's largest score in natural units; a sink is none.
"""

from __future__ import annotations

from math import log2

import torch
from torch import Tensor

_LOG2E = log2(2.718281828459045)


def log_of_totals(total: Tensor) -> Tensor:
    """The logarithm of sums of weights: minus infinity where they are 0, with gradients that are 0 there too."""
    empty = total == 0
    return total.masked_fill(empty, 1.0).log().masked_fill(empty, float("-inf"))


def begin(lse: Tensor, norm: Tensor, sink: Tensor | None, natural: bool) -> None:
    """Make them those of rows that saw nothing but their sink, a logit: (batch, heads), or (batch, heads, n_q)."""
    top = norm.select(-4, 0)
    norm.select(-4, 1).zero_(), norm.select(-4, 2).fill_(float("-inf"))
    if sink is None:
        lse.fill_(float("-inf")), top.fill_(float("-inf"))
    else:
        lse.copy_(by_row(sink).expand(lse.shape))
        torch.mul(lse, 1.0 if natural else _LOG2E, out=top)


def merged(norms: Tensor, sink: Tensor | None, natural: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sum-exp and norm of a softmax in parts, (parts, 3, batch, heads, n_q), and a sink; weights of the parts."""
    unit = _LOG2E if natural else 1.0
    if sink is not None:
        last = torch.empty_like(norms[:1])
        begin(last.new_empty(last[:, 0].shape), last, sink, natural)
        norms = torch.cat([norms, last])
    tops, sums, largest = norms.unbind(1)
    top = tops.amax(0)
    shares = torch.exp2((tops - top.nan_to_num(neginf=0.0)) * unit + sums)
    total = shares.sum(0)
    weights = shares / torch.where(total > 0, total, 1.0)
    norm = torch.stack([top, torch.where(total > 0, total, 1.0).log2(), largest.amax(0)])
    lse = (norm[0] * unit + norm[1]) / _LOG2E
    return lse, norm, weights if sink is None else weights[:-1]


def by_row(sink: Tensor) -> Tensor:
    """A sink with a dimension of rows, (batch, heads, n_q or 1)."""
    return sink if sink.dim() == 3 else sink[..., None]
