"""One call on one rank: what its passes have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from attnspec.codegen.ranks.runs import Run, common
from attnspec.codegen.ranks.schedule import Heads, Item, Message
from attnspec.runtime.attention import Attention
from attnspec.runtime.distributed.duties import Duties
from attnspec.runtime.distributed.pieces import Part
from attnspec.runtime.distributed.stored import Column, Form, Lent
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

    def part(self, item: Item, q: Lent, keys: Lent, results: Lent) -> None:
        """The pairs of an item, added to the output of its queries."""
        of = strided(self.branches[item.branch], item.queries, item.keys)
        for heads, (by_q, by_k) in self._by_heads(item):
            k, v = (t[:, by_k] for t in keys.tensors)
            out, lse = (t[:, by_q] for t in results.tensors)
            of.part(q.tensors[0][:, by_q], k, v, out=out, lse=lse, **self._options(heads))
        results.give_back()

    def part_backward(
        self, item: Item, of_rows: Sequence[Tensor], keys: Lent, dq: Lent, dkeys: Lent, dinputs: Mapping[str, Tensor]
    ) -> None:
        """What the pairs of an item add to gradients: ``of_rows`` are q, output, log-sum-exp, and gradients of both."""
        of = strided(self.branches[item.branch], item.queries, item.keys)
        for heads, (by_q, by_k) in self._by_heads(item):
            q, *result = (t[:, by_q] for t in of_rows)
            k, v, dk, dv = (t[:, by_k] for t in (*keys.tensors, *dkeys.tensors))
            into = {"dq": dq.tensors[0][:, by_q], "dk": dk, "dv": dv, "dinputs": dinputs}
            of.part_backward(q, k, v, *result, **into, **self._options(heads))
        dq.give_back()
        dkeys.give_back()

    def _by_heads(self, item: Item) -> Iterator[tuple[Heads | None, tuple[slice, slice]]]:
        """An item's heads in groups that one call computes, with their places among its query and its key heads.

        Those are all heads, some of one key head, or all of some key heads.
        """
        if item.heads is None:
            yield None, (slice(None), slice(None))
            return
        first, last = item.heads
        shared = self.form.heads // self.form.kv_heads
        cuts = [first, *(h for h in range(first + 1, last) if h % shared == 0), last]
        if first % shared == last % shared == 0:
            cuts = [first, last]
        for low, high in pairwise(cuts):
            by_k = self.form.of_keys((low, high))
            start = self.form.of_keys(item.heads).start
            yield (low, high), (slice(low - first, high - first), slice(by_k.start - start, by_k.stop - start))

    def _options(self, heads: Heads | None) -> dict[str, Any]:
        form, options = self.form, {"n": self.duties.n, "n_q": self.duties.n, "scale": self.scale}
        if heads is not None:
            options |= {"h_start": heads[0], "heads": form.heads, "kv_heads": form.kv_heads}
        return {**options, "inputs": self.inputs}

    def blocks(
        self, message: Message, columns: Sequence[Column], blocks: Sequence[Run] | None = None
    ) -> list[list[Part]]:
        """What a message holds, in blocks of rows or as one, with these tensors in each slice."""
        results = message.kind == "results"

        def parts(block: Run | None) -> list[Part]:
            runs = [one.runs if block is None else common(one.runs, block) for one in message.slices]
            branches = [one.branch if results else None for one in message.slices]
            rows = zip(message.slices, runs, branches, strict=True)
            return [Part(one.heads, some, tuple(columns), branch) for one, some, branch in rows if some]

        return [parts(block) for block in (blocks or (None,))]
