"""How messages travel: posted for a step, waited for when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor


class Sent(NamedTuple):
    """A contiguous tensor for a rank."""

    target: int
    tensor: Tensor


class Expected(NamedTuple):
    """A contiguous tensor that is written over by what comes from a rank, of its shape and dtype."""

    source: int
    tensor: Tensor


class Pending(Protocol):
    """Messages on their way."""

    def wait(self) -> None:
        """Until all that was expected is here, and all that was sent is out of its buffers."""
        ...


class Transport(Protocol):
    """The messages of one rank among several. Ranks count from 0 within their group."""

    rank: int
    ranks: int

    def post(self, sent: Sequence[Sent], expected: Sequence[Expected]) -> Pending:
        """Begin with the messages of one step; every rank posts every step, with nothing too, in the same order."""
        ...


def always() -> bool:
    """Whether torch.distributed is asked to look closely (TORCH_DISTRIBUTED_DEBUG)."""
    import torch.distributed as dist

    return dist.is_available() and dist.get_debug_level() != dist.DebugLevel.OFF  # type: ignore[attr-defined]
