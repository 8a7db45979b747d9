"""The small byte-level language model, trained with its sequence dealt out to ranks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import cross_entropy

from attnspec.runtime.distributed.distribute import Distributed
from attnspec.runtime.modules.byte_model import ByteModel, Step, steps_on

_NONE = -100
"""The label of rows of padding."""


def train_over_ranks(
    data: bytes, far: Distributed, length: int, steps: int, heads: int = 4, seed: int = 0
) -> Iterator[Step]:
    """As :func:`attnspec.runtime.modules.byte_model.train`, on all ranks of ``far`` together: the same steps.

    Each rank has the whole model and its own rows of the sequence. The loss is that of all ranks.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ByteModel(far.attend, length, heads=heads, call=far)
    positions = far.positions.clamp(min=0)
    whole = {
        id(p) for name, p in model.named_parameters() if ".learned." in name
    }  # far adds up gradients of inputs itself
    parts = [p for p in model.parameters() if id(p) not in whole]

    def loss(piece: Tensor) -> Tensor:
        ids, labels = far.shard(piece[:, :-1], dim=1), far.shard(piece[:, 1:], dim=1, pad=_NONE)
        logits = model(ids, positions).flatten(0, 1)
        return cross_entropy(logits, labels.flatten(), ignore_index=_NONE, reduction="sum") / length

    def together(found: Tensor) -> Tensor:
        numbers = torch.cat([found.view(1), *(p.grad.flatten() for p in parts if p.grad is not None)])
        dist.all_reduce(numbers)
        sums = torch.split(numbers[1:], [p.numel() for p in parts if p.grad is not None])
        for p, total in zip((p for p in parts if p.grad is not None), sums, strict=True):
            p.grad = total.view_as(p)
        return numbers[0]

    return steps_on(data, length, steps, model, loss, seed, None, together)
