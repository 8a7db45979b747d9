"""An attention over a group of ranks each of which gathers all keys, for patterns of which no other plan can be made.

A computed order sorts all positions by what they hold, and tables say in each call which pairs there are: any rank may
need any key. Gathering them is asked for by name, because it costs memory for the whole sequence on every rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from attnspec.codegen.ranks.shards import Shards, shards
from attnspec.runtime.attention import Attention
from attnspec.runtime.core.arguments import check_call
from attnspec.runtime.distributed.in_order import InOrder, Vectors
from attnspec.runtime.distributed.inputs import gathered, whole_inputs
from attnspec.runtime.distributed.planning import Asked
from attnspec.runtime.distributed.transport import Transport
from attnspec.spec.units import quantity
from attnspec.spec.writing import Shown


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


class GatherSpread(InOrder):
    """One rank's view of it."""

    def __init__(self, attend: Attention, transport: Transport, asked: Asked) -> None:
        """Raises CallError for shards that are not contiguous."""
        super().__init__(attend, transport, asked, 'with gather="keys" ranks')
        spec = attend.spec
        self.rows = spec.order is not None or attend._facts.composed or not spec.weights.softmax_only

    def planned(self, n: int) -> GatherPlan:
        """What is planned for sequences of length n: the same on all ranks."""
        asked = self.asked
        numbers = asked.kv_heads * (asked.dim + asked.dim_v) + (asked.heads * asked.dim if self.rows else 0)
        return GatherPlan(self.name, self.shards(n), asked.batch * numbers * asked.itemsize, self.rows)

    def shards(self, n: int) -> Shards:
        """Who holds what."""
        return shards("contiguous", n, self.transport.ranks)

    def sent(self, inputs: Mapping[str, Tensor], n: int) -> tuple[int, int]:
        """The bytes that this rank sends in a call, forward and backward, of inputs that are whole."""
        plan = self.planned(n)
        held = [sum(run.length for run in runs) for runs in plan.shards.held]
        others = sum(held) - held[self.transport.rank]
        return plan.received, others * plan.of_position

    def results(
        self, vectors: Vectors, scale: float | None, given: Mapping[str, Tensor], n: int, return_lse: bool
    ) -> tuple[Tensor, Tensor]:
        """What :meth:`call` returns."""
        check_call(self.name, self.attend._target, self.attend._kinds, *vectors)
        self._agree(vectors, scale, given, n, "")
        (q, k, v), dealt, transport, attend = vectors, self.shards(n), self.transport, self.attend
        held = dealt.held[transport.rank]
        start, stop = (held[0].start, held[0].stop) if held else (n, n)
        inputs = whole_inputs(attend.spec, transport, dealt, given)
        k, v = (gathered(transport, dealt, t, 2) for t in (k, v))
        lse = q.new_full((*q.shape[:2], stop - start), torch.nan, dtype=torch.float32)
        if self.rows:
            found = attend(gathered(transport, dealt, q, 2), k, v, scale=scale, inputs=inputs, return_lse=return_lse)  # type: ignore[call-overload]
            out, lse = (t[:, :, start:stop] for t in found) if return_lse else (found[:, :, start:stop], lse)
        else:
            own = q.narrow(2, 0, stop - start)
            out, lse = attend.part(own, k, v, q_start=start, k_start=0, n=n, n_q=n, scale=scale, inputs=inputs)
            out, lse = attend.add_sink(out, lse, q_start=start, n=n, n_q=n, kv_heads=k.shape[1], inputs=inputs)
            out = out.to(q.dtype)
        more = dealt.rows - (stop - start)
        return torch.nn.functional.pad(out, (0, 0, 0, more)), torch.nn.functional.pad(lse, (0, more), value=-torch.inf)
