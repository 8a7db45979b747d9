"""The backward pass of one rank: keys are fetched again, and their gradients go home during the next step.

Of a row that is computed elsewhere travel the query, the gradient of its output, the log-sum-exp of the whole, and one
number: the gradient of that log-sum-exp less the sum over the output times its gradient, which is all that is needed of
the output. Where the weights of a mixture are detached there is such a number for each branch, and the log-sum-exp of
the whole serves for all: exp(s - lse) is then a weight of the branch times that of the branch in the mixture. With
given shares each branch has its own log-sum-exp, and its share travels too.

Sums are float32, in a fixed order, as forward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from attnspec.codegen.ranks.schedule import Item, Message
from attnspec.runtime.distributed.duties import Step
from attnspec.runtime.distributed.exchange import Arrived, Blocks, Coming, Leg, post
from attnspec.runtime.distributed.job import Job
from attnspec.runtime.distributed.pieces import Part, going, made
from attnspec.runtime.distributed.stored import Column, Lent, Stored


class OfRows(NamedTuple):
    """What gradients of a total come from, of a rank's own rows: (batch, heads, rows), float32.

    ``share`` multiplies the gradient of the output, where it is there.
    """

    lse: Tensor
    number: Tensor
    share: Tensor | None = None


class Gradients(NamedTuple):
    """Those of a rank's q, k and v, float32."""

    q: Tensor
    k: Tensor
    v: Tensor


def backward(
    job: Job, vectors: Sequence[Tensor], dout: Tensor, rows: Sequence[OfRows], dinputs: Mapping[str, Tensor]
) -> Gradients:
    """Gradients of q, k and v, the ``vectors``; this rank's part of those of float inputs is added to ``dinputs``."""
    return _Backward(job, vectors, dout, rows, dinputs).run()


class _Backward:
    def __init__(
        self, job: Job, vectors: Sequence[Tensor], dout: Tensor, rows: Sequence[OfRows], dinputs: Mapping[str, Tensor]
    ) -> None:
        self.job, self.dinputs, form, at = job, dinputs, job.form, job.duties.rows
        q, k, v = vectors
        floats = torch.float32
        self.of_keys = Column(form.dtype, form.dim, keys=True), Column(form.dtype, form.dim_v, keys=True)
        # The log-sum-exp of the whole is one for all branches, unless there are shares: then the whole has none.
        self.shared = rows[0].share is not None
        whole = () if self.shared else (rows[0].lse,)
        vectors_of_queries = Column(form.dtype, form.dim), Column(form.dtype, form.dim_v)
        self.of_queries = (*vectors_of_queries, *(Column(floats),) * len(whole))
        self.of_rows = (Column(floats),) * (3 if self.shared else 1)
        self.of_dkeys = Column(floats, form.dim, keys=True), Column(floats, form.dim_v, keys=True)
        self.of_dq = (Column(floats, form.dim),)
        self.made = Gradients(*(torch.zeros(t.shape, dtype=floats, device=form.device) for t in vectors))
        self.keys = Stored.own(form, at, self.of_keys, (k, v))
        self.queries = Stored.own(form, at, self.of_queries, (q, dout, *whole))
        self.rows = [
            Stored.own(form, at, self.of_rows, (row.number,) if row.share is None else (row.number, row.lse, row.share))
            for row in rows
        ]
        self.dq = Stored.own(form, at, self.of_dq, (self.made.q,))
        self.dkeys = Stored.own(form, at, self.of_dkeys, (self.made.k, self.made.v))
        self.zero = torch.zeros(1, dtype=form.dtype, device=form.device)

    def run(self) -> Gradients:
        job, steps = self.job, self.job.duties.steps
        arrived, before = Arrived({}, {}, {}), Coming()
        for number, step in enumerate(steps):
            coming = self._fetch(steps[number + 1]) if number + 1 < len(steps) else Coming()
            results = {
                ("queries", asker): self._of_others(step, asker, arrived.queries.pop(asker)) for asker in step.of_others
            }
            legs = [Leg(m, self._back(step, m), back=True) for m in step.inputs]
            results |= self._of_own(step, arrived.keys, [leg for leg in legs if leg.message.kind == "keys"])
            arrived.keys.clear()  # its memory is free before the next is there
            self._add(before.wait())
            before = post(job.transport, job.form, legs, partial(_taken, results))
            arrived = coming.wait()
        self._add(before.wait())
        return self.made

    def _back(self, step: Step, m: Message) -> Blocks:
        """The gradients of a message."""
        if m.kind == "keys":
            return self.job.blocks(m, self.of_dkeys)
        return self.job.blocks(m, self.of_dq, step.blocks[m.source, m.target])

    def _fetch(self, step: Step) -> Coming:
        legs = [Leg(m, self._there(step, m)) for m in step.inputs]
        return post(self.job.transport, self.job.form, legs, self._filled)

    def _there(self, step: Step, m: Message) -> Blocks:
        """What travels: keys, or rows, and for each total of these what its gradients come from."""
        if m.kind == "keys":
            return self.job.blocks(m, self.of_keys)
        blocks = step.blocks[m.source, m.target]
        rows = self.job.blocks(m, self.of_queries, blocks)
        of_totals = self.job.blocks(step.result_for(m.source, m.target), self.of_rows, blocks)
        return [[*some, *more] for some, more in zip(rows, of_totals, strict=True)]

    def _filled(self, leg: Leg) -> list[Tensor]:
        held = self.keys if leg.message.kind == "keys" else self.queries

        def of_part(part: Part) -> Stored:
            return held if part.branch is None else self.rows[self.job.total(part.branch)]

        return [piece for parts in leg.blocks for piece in going(self.job.form, parts, of_part)]

    def _of_others(self, step: Step, asker: int, queries: list[Stored]) -> list[Tensor]:
        """Gradients of rows of another rank: the memory that will be sent, block by block."""
        (message,) = (m for m in step.inputs if (m.kind, m.source, m.target) == ("queries", asker, self.job.rank))
        # What came of a block is free before the gradients of the next are there.
        return [
            self._block(items, queries.pop(0), parts)
            for items, parts in zip(step.of_others[asker], self._back(step, message), strict=True)
        ]

    def _block(self, items: Sequence[Item], queries: Stored, parts: Sequence[Part]) -> Tensor:
        into, memory = made(self.job.form, parts, torch.zeros)
        for item in items:
            rows = queries.at(item.heads, item.queries, item.branch)
            dq = into.at(item.heads, item.queries)
            self._compute(item, queries, rows, dq, self.keys, self.dkeys)
        return memory

    def _of_own(
        self, step: Step, keys: Mapping[int, Sequence[Stored]], legs: Sequence[Leg]
    ) -> dict[tuple[str, int], list[Tensor]]:
        """Add to gradients of this rank's rows; those of keys that came: the memory that will be sent."""
        rank, form = self.job.rank, self.job.form
        into = {leg.target: made(form, leg.blocks[0], torch.zeros) for leg in legs if leg.source == rank}
        for item in step.own:
            rows = self.rows[self.job.total(item.branch)].at(item.heads, item.queries)
            dq, keeper = self.dq.at(item.heads, item.queries), item.keeper
            came = (self.keys, self.dkeys) if keeper == rank else (keys[keeper][0], into[keeper][0])
            self._compute(item, self.queries, rows, dq, *came)
        return {("keys", keeper): [memory] for keeper, (_, memory) in into.items()}

    def _compute(self, item: Item, queries: Stored, rows: Lent, dq: Lent, keys: Stored, dkeys: Stored) -> None:
        q, dout, *whole = queries.at(item.heads, item.queries).tensors
        number, lse, *share = (*rows.tensors, *whole)
        if share:
            dout = (dout * share[0][..., None]).to(dout.dtype)
        out = self.zero.expand(dout.shape)  # what is needed of the output is in the number
        of_keys = keys.at(item.heads, item.keys), dq, dkeys.at(item.heads, item.keys)
        self.job.part_backward(item, (q, out, lse, dout, number), *of_keys, self.dinputs)

    def _add(self, arrived: Arrived) -> None:
        """Add gradients that others computed for what they were sent."""
        for own, came in ((self.dkeys, arrived.keys), (self.dq, arrived.queries)):
            for section in (section for blocks in came.values() for stored in blocks for section in stored.sections):
                heads = section.heads.start, section.heads.stop
                for run, first in zip(section.rows.runs, section.rows.first, strict=True):
                    for to, t in zip(own.at(heads, run).tensors, section.tensors, strict=True):
                        to.add_(t[:, :, first : first + run.length])


def _taken(made: dict[tuple[str, int], list[Tensor]], leg: Leg) -> list[Tensor]:
    return made.pop((leg.message.kind, leg.target))
