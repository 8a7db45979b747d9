"""The forward pass of one rank: what arrives for a step travels while the step before is computed.

Sums are in a fixed order, whenever messages arrive: a rank's own items as the schedule lists them, and after each step
the results that others computed in the step before it, in the order of their messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from attnspec.codegen.ranks.schedule import Item
from attnspec.runtime.distributed.duties import Step
from attnspec.runtime.distributed.exchange import Arrived, Coming, Leg, post
from attnspec.runtime.distributed.job import Job
from attnspec.runtime.distributed.pieces import Part, going, made
from attnspec.runtime.distributed.stored import Column, Stored
from attnspec.runtime.distributed.sums import Sums, Total, columns, nothing


def forward(job: Job, q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None) -> list[Total]:
    """What the keys of all ranks give to the rows of this one: one for each total.

    A single one is through, with its ``sink``, in the type of the call; several are float32, without any.
    """
    return _Forward(job, q, k, v, sink).run()


class _Forward:
    def __init__(self, job: Job, q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None) -> None:
        self.job, form, rows = job, job.form, job.duties.rows
        self.of_keys = Column(form.dtype, form.dim, keys=True), Column(form.dtype, form.dim_v, keys=True)
        self.of_queries = (Column(form.dtype, form.dim),)
        self.of_results = columns(form)
        self.q = Stored.own(form, rows, self.of_queries, (q,))
        self.keys = Stored.own(form, rows, self.of_keys, (k, v))
        self.sums = None if job.apart else Sums(job, sink)
        self.totals = [nothing(form, job.duties.length) for _ in range(job.totals if job.apart else 0)]
        self.own = [Stored.own(form, rows, self.of_results, total) for total in self.totals]
        if self.sums is not None:
            self.own = [self.sums.stored]

    def run(self) -> list[Total]:
        steps = self.job.duties.steps
        arrived, before = Arrived({}, {}, {}), Coming()
        for number, step in enumerate(steps):
            coming = self._fetch(steps[number + 1]) if number + 1 < len(steps) else Coming()
            results = {asker: self._of_others(step, asker, arrived.queries.pop(asker)) for asker in step.of_others}
            if self.sums is not None and number == 0:
                self.sums.first(step.own, partial(self._compute, arrived))
            else:
                for item in step.own:
                    self._compute(arrived, item, self.own[self.job.total(item.branch)])
            arrived.keys.clear()  # its memory is free before the next is there
            self._add(before.wait())
            before = self._send(step, results)
            arrived = coming.wait()
        self._add(before.wait())
        return self.totals if self.sums is None else [self.sums.done()]

    def _fetch(self, step: Step) -> Coming:
        """Begin with what a step needs."""
        legs = []
        for m in step.inputs:
            keys = m.kind == "keys"
            columns, blocks = (self.of_keys, None) if keys else (self.of_queries, step.blocks[m.source, m.target])
            legs.append(Leg(m, self.job.blocks(m, columns, blocks)))
        return post(self.job.transport, self.job.form, legs, self._filled)

    def _filled(self, leg: Leg) -> list[Tensor]:
        held = self.keys if leg.message.kind == "keys" else self.q
        return [piece for parts in leg.blocks for piece in going(self.job.form, parts, lambda _: held)]

    def _of_others(self, step: Step, asker: int, queries: list[Stored]) -> list[Tensor]:
        """What rows of another rank become: the memory that will be sent, block by block."""
        message = step.result_for(asker, self.job.rank)
        blocks = self.job.blocks(message, self.of_results, step.blocks[asker, self.job.rank])
        # What came of a block is free before the results of the next are there.
        return [
            self._block(items, queries.pop(0), parts)
            for items, parts in zip(step.of_others[asker], blocks, strict=True)
        ]

    def _block(self, items: Sequence[Item], queries: Stored, parts: Sequence[Part]) -> Tensor:
        into, memory = made(self.job.form, parts)
        for section in into.sections:
            section.tensors[0].zero_()
            section.tensors[1].fill_(-torch.inf)
        for item in items:
            q, keys = queries.at(item.heads, item.queries), self.keys.at(item.heads, item.keys)
            self.job.part(item, q, keys, into.at(item.heads, item.queries, item.branch))
        return memory

    def _compute(self, arrived: Arrived, item: Item, own: Stored) -> None:
        keys = self.keys if item.keeper == self.job.rank else arrived.keys[item.keeper][0]
        q, results = (stored.at(item.heads, item.queries) for stored in (self.q, own))
        self.job.part(item, q, keys.at(item.heads, item.keys), results)

    def _send(self, step: Step, results: dict[int, list[Tensor]]) -> Coming:
        legs = [Leg(m, self.job.blocks(m, self.of_results, step.blocks[m.target, m.source])) for m in step.results]
        return post(self.job.transport, self.job.form, legs, lambda leg: results.pop(leg.target))

    def _add(self, arrived: Arrived) -> None:
        """Merge what others computed for rows of this rank."""
        for section in (section for came in arrived.results.values() for stored in came for section in stored.sections):
            heads = section.heads.start, section.heads.stop
            assert section.branch is not None
            for run, first in zip(section.rows.runs, section.rows.first, strict=True):
                own = self.own[self.job.total(section.branch)].at(heads, run).tensors
                out, lse = (t[:, :, first : first + run.length] for t in section.tensors)
                merge_into(own[0], own[1], out, lse)


def merge_into(out: Tensor, lse: Tensor, more: Tensor, its_lse: Tensor) -> None:
    """The softmax over both, in place. Rows that see nothing stay zeros with minus infinity."""
    top = torch.maximum(lse, its_lse)
    top.masked_fill_(top == -torch.inf, 0.0)
    ours, theirs = torch.exp(lse - top), torch.exp(its_lse - top)
    total = ours + theirs
    lse.copy_(top + total.log())
    total.clamp_(min=torch.finfo(torch.float32).tiny)
    out.mul_((ours / total)[..., None]).addcmul_(more, (theirs / total)[..., None])
