"""An attention over a group of ranks each of which gathers all keys, for patterns of which no other plan can be made.

A computed order sorts all positions by what they hold, and tables say in each call which pairs there are: any rank may
need any key. Gathering them is asked for by name, because it costs memory for the whole sequence on every rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from attnspec.codegen.ranks.shards import Shards, shards
from attnspec.runtime.attention import Attention
from attnspec.runtime.core.arguments import CallError, check_call
from attnspec.runtime.distributed.inputs import gathered, require_alike, whole_inputs
from attnspec.runtime.distributed.planning import Asked
from attnspec.runtime.distributed.spread import always
from attnspec.runtime.distributed.transport import Transport
from attnspec.spec.units import quantity
from attnspec.spec.writing import Shown

Vectors = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class GatherPlan(Shown):
    """Contiguous shards; each rank receives the keys and values of all others, or queries too (``rows``: all of them).

    ``of_position`` are the bytes of what is gathered of one position.
    """

    name: str
    shards: Shards
    of_position: int
    rows: bool

    @property
    def received(self) -> int:
        """The bytes that each rank receives in a forward pass."""
        return (self.shards.ranks - 1) * self.shards.rows * self.of_position

    def __str__(self) -> str:
        what = "keys, values and queries" if self.rows else "keys and values"
        computes = "computes all rows, and keeps its own" if self.rows else "computes its own rows"
        return (
            f"{self.name}: {self.shards}; each rank gathers all {what}, {quantity(self.received, 'B')}, and {computes}"
        )


class GatherSpread:
    """One rank's view of it."""

    def __init__(self, attend: Attention, transport: Transport, asked: Asked) -> None:
        """Raises CallError for shards that are not contiguous."""
        self.attend, self.transport, self.asked = attend, transport, asked
        self.name = attend._facts.name
        if asked.shard not in ("auto", "contiguous") or asked.chunks not in (None, 1):
            raise CallError(
                f'{self.name}: with gather="keys" ranks hold one piece of the sequence each, in order: '
                f'shard="contiguous", not {asked.shard!r}'
            )
        spec = attend.spec
        self.rows = spec.order is not None or attend._facts.composed or not spec.weights.softmax_only
        self._agreed: set[str] = set()

    def planned(self, n: int) -> GatherPlan:
        """What is planned for sequences of length n: the same on all ranks."""
        asked = self.asked
        numbers = asked.kv_heads * (asked.dim + asked.dim_v) + (asked.heads * asked.dim if self.rows else 0)
        return GatherPlan(self.name, self.shards(n), asked.batch * numbers * asked.itemsize, self.rows)

    def shards(self, n: int) -> Shards:
        """Who holds what."""
        return shards("contiguous", n, self.transport.ranks)

    def positions(self, n: int, rank: int) -> Tensor:
        """The positions of a rank's rows, but padding."""
        places = self.shards(n).positions(rank)
        return torch.from_numpy(places[places >= 0])

    def sent(self, inputs: Mapping[str, Tensor], n: int) -> tuple[int, int]:
        """The bytes that this rank sends in a call, forward and backward, of inputs that are whole."""
        plan = self.planned(n)
        held = [sum(run.length for run in runs) for runs in plan.shards.held]
        others = sum(held) - held[self.transport.rank]
        return plan.received, others * plan.of_position

    def call(
        self, vectors: Vectors, scale: float | None, given: Mapping[str, Tensor], n: int, return_lse: bool
    ) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp (of use only if asked for) of this rank's rows. Raises CallError."""
        run = _untraced if torch.compiler.is_compiling() else _called
        return run(self, vectors, scale, given, n, return_lse)

    def agree(self, vectors: Vectors, scale: float | None, given: Mapping[str, Tensor], n: int) -> None:
        """Raise CallError where tensors do not fit, or ranks are not about to do the same (at the first such call)."""
        q, k, v = vectors
        check_call(self.name, self.attend._target, self.attend._kinds, q, k, v)
        tensors = {"q": q, "k": k, "v": v, **given}
        shapes = [(name, tuple(t.shape), str(t.dtype), t.requires_grad) for name, t in tensors.items()]
        kind = f"{shapes} {scale} {n} {self.attend.program.encoded}"
        if kind not in self._agreed or always():
            told = torch.frombuffer(bytearray(sha256(kind.encode()).digest()), dtype=torch.uint8)
            require_alike(
                self.name, self.transport, {"call (shapes, dtypes, scale, what wants gradients)": told}, q.device
            )
            self._agreed.add(kind)


def _called(
    of: GatherSpread, vectors: Vectors, scale: float | None, given: Mapping[str, Tensor], n: int, return_lse: bool
) -> tuple[Tensor, Tensor]:
    of.agree(vectors, scale, given, n)
    (q, k, v), dealt, transport, attend = vectors, of.shards(n), of.transport, of.attend
    held = dealt.held[transport.rank]
    start, stop = (held[0].start, held[0].stop) if held else (n, n)
    inputs = whole_inputs(attend.spec, transport, dealt, given)
    k, v = (gathered(transport, dealt, t, 2) for t in (k, v))
    lse = q.new_full((*q.shape[:2], stop - start), torch.nan, dtype=torch.float32)
    if of.rows:
        found = attend(gathered(transport, dealt, q, 2), k, v, scale=scale, inputs=inputs, return_lse=return_lse)  # type: ignore[call-overload]
        out, lse = (t[:, :, start:stop] for t in found) if return_lse else (found[:, :, start:stop], lse)
    else:
        own = q.narrow(2, 0, stop - start)
        out, lse = attend.part(own, k, v, q_start=start, k_start=0, n=n, n_q=n, scale=scale, inputs=inputs)
        out, lse = attend.add_sink(out, lse, q_start=start, n=n, n_q=n, kv_heads=k.shape[1], inputs=inputs)
        out = out.to(q.dtype)
    more = dealt.rows - (stop - start)
    return torch.nn.functional.pad(out, (0, 0, 0, more)), torch.nn.functional.pad(lse, (0, more), value=-torch.inf)


_untraced = _disable_dynamo(_called)
