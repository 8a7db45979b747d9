"""Attention beyond softmax in float64, rows at a time: what kernels for it are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.dense.rows import Scored
from attnspec.runtime.dense.softmax import per_head
from attnspec.spec.spec import Spec

_NUMBERS = 1 << 22
"""Of the weights of rows that are looked at together."""


class Exact:
    """Outputs of all heads of batch entry 0 for some blocks of rows, with gradients that add up over them."""

    def __init__(
        self,
        spec: Spec,
        sizes: Sizes,
        tensors: tuple[Tensor, Tensor, Tensor, Tensor],
        inputs: Mapping[str, Tensor],
        scale: float | None,
        tick: Callable[[], object],
        blocks: Sequence[slice],
    ) -> None:
        q, k, v = (t.detach().double().requires_grad_() for t in tensors[:3])
        dout = tensors[3].double()
        floats = {name: t.detach().double().requires_grad_() for name, t in inputs.items() if t.is_floating_point()}
        scored = Scored.of(spec, q, k, scale, {**inputs, **floats}, sizes)
        values = per_head(v, sizes.heads)
        self.out = torch.zeros(sizes.heads, sizes.n_q, v.shape[3], dtype=torch.float64)
        leaves = (q, k, v, *floats.values())
        sums = [torch.zeros_like(leaf) for leaf in leaves]
        for rows in _steps(blocks, max(1, _NUMBERS // max(1, sizes.n * sizes.heads * sizes.batch))):
            found = scored.weights(rows) @ values
            self.out[:, rows] = found[0].detach()
            grads = torch.autograd.grad(
                found, leaves, dout[:, :, rows], retain_graph=True, allow_unused=True, materialize_grads=True
            )
            for total, more in zip(sums, grads, strict=True):
                total += more
            tick()
        self.dq, self.dk, self.dv = (dict(enumerate(t[0])) for t in sums[:3])
        self.dfloats = dict(zip(floats, sums[3:], strict=True))

    def head(self, h: int, g: int) -> Tensor:
        """The output of a head, (n_q, dim_v); zeros in rows that are not looked at."""
        return self.out[h]

    def gradients(self) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """The gradients of queries by head and of keys by key head."""
        return self.dq, self.dk


def _steps(blocks: Sequence[slice], most: int) -> Iterator[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    for block in blocks:
        for at in range(block.start, block.stop, most):
            yield np.arange(at, min(at + most, block.stop))
