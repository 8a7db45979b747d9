"""What attentions have in common whose ranks hold one piece of the sequence each, in order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from hashlib import sha256

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from attnspec.codegen.ranks.shards import Shards
from attnspec.runtime.attention import Attention
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.distributed.inputs import require_alike
from attnspec.runtime.distributed.planning import Asked
from attnspec.runtime.distributed.transport import Transport, always

Vectors = tuple[Tensor, Tensor, Tensor]


class InOrder(ABC):
    """One rank's view of it."""

    def __init__(self, attend: Attention, transport: Transport, asked: Asked, who: str) -> None:
        """Raises CallError for other shards: ``who`` are the ranks that it is said of."""
        self.attend, self.transport, self.asked = attend, transport, asked
        self.name = attend._facts.name
        self._agreed: set[str] = set()
        if asked.shard not in ("auto", "contiguous") or asked.chunks not in (None, 1):
            raise CallError(
                f'{self.name}: {who} hold one piece of the sequence each, in order: shard="contiguous", not '
                f"{asked.shard!r}{'' if asked.chunks is None else f' in {asked.chunks} chunks'}"
            )

    @abstractmethod
    def shards(self, n: int) -> Shards:
        """Who holds what."""

    @abstractmethod
    def results(
        self, vectors: Vectors, scale: float | None, given: Mapping[str, Tensor], n: int, return_lse: bool
    ) -> tuple[Tensor, Tensor]:
        """What :meth:`call` returns; torch.compile does not look into it."""

    def call(
        self, vectors: Vectors, scale: float | None, given: Mapping[str, Tensor], n: int, return_lse: bool
    ) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp (of use only if asked for, NaN where there is none) of this rank's rows.

        Raises CallError.
        """
        run = _untraced if torch.compiler.is_compiling() else type(self).results
        return run(self, vectors, scale, given, n, return_lse)

    def _agree(
        self, vectors: Vectors, scale: float | None, given: Mapping[str, Tensor], n: int, plan: str, *same: str
    ) -> None:
        """Raise CallError where ranks are not about to do the same: at the first call of its kind.

        ``same`` are inputs of which that is looked at in each call.
        """
        tensors = {**dict(zip("qkv", vectors, strict=True)), **given}
        shapes = [(name, tuple(t.shape), str(t.dtype), t.requires_grad) for name, t in tensors.items()]
        kind = f"{shapes} {scale} {n} {self.attend.program.encoded} {plan}"
        if kind in self._agreed and not same and not always():
            return
        told = torch.frombuffer(bytearray(sha256(kind.encode()).digest()), dtype=torch.uint8)
        values = {"call (shapes, dtypes, scale, what wants gradients)": told, **{name: given[name] for name in same}}
        require_alike(self.name, self.transport, values, vectors[0].device)
        self._agreed.add(kind)


@_disable_dynamo
def _untraced(
    of: InOrder, vectors: Vectors, scale: float | None, given: Mapping[str, Tensor], n: int, return_lse: bool
) -> tuple[Tensor, Tensor]:
    return of.results(vectors, scale, given, n, return_lse)
