"""The forward pass of one rank: what arrives for a step travels while the step before is computed.

Sums are in a fixed order, whenever messages arrive: a rank's own items as the schedule lists them, and after each step
the results that others computed in the step before it, in the order of their messages.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attnspec.codegen.ranks.schedule import Item
from attnspec.runtime.distributed.duties import Step
from attnspec.runtime.distributed.exchange import NOTHING, Arrived, Coming, Leg, post
from attnspec.runtime.distributed.job import Job
from attnspec.runtime.distributed.stored import Column, Stored, copied, empty

Total = tuple[Tensor, Tensor]
"""An output, (batch, heads, rows, dim_v), and its log-sum-exp, (batch, heads, rows): float32."""


def forward(job: Job, q: Tensor, k: Tensor, v: Tensor) -> list[Total]:
    """What the keys of all ranks give to the rows of this one, before sinks and mixtures: one for each total."""
    return _Forward(job, q, k, v).run()


class _Forward:
    def __init__(self, job: Job, q: Tensor, k: Tensor, v: Tensor) -> None:
        self.job, form, rows = job, job.form, job.duties.rows
        self.of_keys = Column(form.dtype, form.dim, keys=True), Column(form.dtype, form.dim_v, keys=True)
        self.of_queries = (Column(form.dtype, form.dim),)
        self.of_results = Column(torch.float32, form.dim_v), Column(torch.float32)
        shape = (form.batch, form.heads, job.duties.length)

        def filled(value: float, *width: int) -> Tensor:
            return torch.full((*shape, *width), value, dtype=torch.float32, device=form.device)

        self.totals = [(filled(0.0, form.dim_v), filled(-torch.inf)) for _ in range(job.totals)]
        self.q = Stored.own(form, rows, self.of_queries, (q,))
        self.keys = Stored.own(form, rows, self.of_keys, (k, v))
        self.own = [Stored.own(form, rows, self.of_results, total) for total in self.totals]

    def run(self) -> list[Total]:
        steps = self.job.duties.steps
        arrived, before = NOTHING, Coming(None, self.job.form, ())
        for number, step in enumerate(steps):
            coming = self._fetch(steps[number + 1]) if number + 1 < len(steps) else None
            made = self._made(step)
            for item in step.items:
                self._compute(item, arrived, made)
            arrived = NOTHING  # its memory is free before the next is there
            now = self._send(step, made)
            self._add(before.wait())
            before = now
            arrived = NOTHING if coming is None else coming.wait()
        self._add(before.wait())
        return self.totals

    def _fetch(self, step: Step) -> Coming:
        legs = [Leg(m, self.job.slices(m, self.of_keys if m.kind == "keys" else self.of_queries)) for m in step.inputs]
        return post(
            self.job.transport,
            self.job.form,
            legs,
            lambda leg: copied(self.keys if leg.message.kind == "keys" else self.q, empty(self.job.form, leg.parts)),
        )

    def _made(self, step: Step) -> dict[int, Stored]:
        """Where results for others are added up, by the rank that they are for: the memory that will be sent."""
        found = {}
        for m in step.results:
            if m.source == self.job.rank:
                found[m.target] = empty(self.job.form, self.job.slices(m, self.of_results))
                for section in found[m.target].sections:
                    section.tensors[0].zero_()
                    section.tensors[1].fill_(-torch.inf)
        return found

    def _compute(self, item: Item, arrived: Arrived, made: dict[int, Stored]) -> None:
        rank = self.job.rank
        q = (self.q if item.asker == rank else arrived.queries[item.asker]).at(item.heads, item.queries)
        keys = (self.keys if item.keeper == rank else arrived.keys[item.keeper]).at(item.heads, item.keys)
        if item.asker == rank:
            results = self.own[self.job.total(item.branch)].at(item.heads, item.queries)
        else:
            results = made[item.asker].at(item.heads, item.queries, item.branch)
        self.job.part(item, q, keys, results)

    def _send(self, step: Step, made: dict[int, Stored]) -> Coming:
        legs = [Leg(m, self.job.slices(m, self.of_results)) for m in step.results]
        return post(self.job.transport, self.job.form, legs, lambda leg: made.pop(leg.target))

    def _add(self, arrived: Arrived) -> None:
        """Merge what others computed for rows of this rank."""
        for stored in arrived.results.values():
            for section in stored.sections:
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
