"""One call on one rank: what its passes have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from attnspec.codegen.ranks.schedule import Item, Message
from attnspec.runtime.attention import Attention
from attnspec.runtime.distributed.duties import Duties
from attnspec.runtime.distributed.stored import Column, Form, Part
from attnspec.runtime.distributed.strided import WholeInputs, strided
from attnspec.runtime.distributed.transport import Transport


@dataclass(frozen=True, eq=False)
class Job:
    """A call: ``branches`` are what items are computed by, ``apart`` says that each has an output of its own."""

    transport: Transport
    duties: Duties
    form: Form
    branches: Sequence[Attention]
    apart: bool
    scale: float | None
    inputs: WholeInputs

    @property
    def rank(self) -> int:
        """Which one this is."""
        return self.duties.rank

    @property
    def totals(self) -> int:
        """How many outputs there are until they are put together."""
        return len(self.branches) if self.apart else 1

    def total(self, branch: int) -> int:
        """Which of these a branch adds to."""
        return branch if self.apart else 0

    def part(self, item: Item, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> None:
        """The pairs of an item, added to the output of its queries."""
        of = strided(self.branches[item.branch], item.queries, item.keys)
        of.part(q, k, v, out=out, lse=lse, **self._options(item))

    def part_backward(self, item: Item, vectors: Sequence[Tensor], result: Sequence[Tensor], **into: Any) -> None:
        """What the pairs of an item add to gradients."""
        of = strided(self.branches[item.branch], item.queries, item.keys)
        of.part_backward(*vectors, *result, **into, **self._options(item))

    def _options(self, item: Item) -> dict[str, Any]:
        form, options = self.form, {"n": self.duties.n, "n_q": self.duties.n, "scale": self.scale}
        if item.heads is not None:
            options |= {"h_start": item.heads[0], "heads": form.heads, "kv_heads": form.kv_heads}
        return {**options, "inputs": self.inputs}

    def slices(self, message: Message, columns: Sequence[Column]) -> list[Part]:
        """What a message holds, with these tensors in each slice."""
        results = message.kind == "results"
        return [
            Part(one.heads, one.runs, tuple(columns), self.total(one.branch) if results else None)
            for one in message.slices
        ]
