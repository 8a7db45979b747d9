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

from attnspec.codegen.ranks.schedule import Item
from attnspec.runtime.distributed.duties import Step
from attnspec.runtime.distributed.exchange import NOTHING, Arrived, Coming, Leg, post
from attnspec.runtime.distributed.job import Job
from attnspec.runtime.distributed.stored import Column, Part, Stored, copied, empty


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
        steps = self.job.duties.steps
        arrived, before = NOTHING, Coming(None, self.job.form, ())
        for number, step in enumerate(steps):
            coming = self._fetch(steps[number + 1]) if number + 1 < len(steps) else None
            legs = [Leg(m, self.job.slices(m, self._back(m.kind)), back=True) for m in step.inputs]
            into = {
                (str(leg.message.kind), leg.target): empty(self.job.form, leg.parts, torch.zeros)
                for leg in legs
                if leg.source == self.job.rank
            }
            for item in step.items:
                self._compute(item, arrived, into)
            arrived = NOTHING
            now = post(self.job.transport, self.job.form, legs, partial(_taken, into))
            self._add(before.wait())
            before = now
            arrived = NOTHING if coming is None else coming.wait()
        self._add(before.wait())
        return self.made

    def _back(self, kind: str) -> tuple[Column, ...]:
        return self.of_dkeys if kind == "keys" else self.of_dq

    def _fetch(self, step: Step) -> Coming:
        of_queries = {m: self._parts(step, m.source, m.target) for m in step.inputs if m.kind == "queries"}
        legs = [Leg(m, of_queries[m] if m in of_queries else self.job.slices(m, self.of_keys)) for m in step.inputs]
        return post(self.job.transport, self.job.form, legs, self._filled)

    def _parts(self, step: Step, asker: int, place: int) -> list[Part]:
        """What travels of queries: the rows, and for each total of them what its gradients come from."""
        (message,) = (m for m in step.inputs if (m.kind, m.source, m.target) == ("queries", asker, place))
        of_totals = self.job.slices(step.result_for(asker, place), self.of_rows)
        return [*self.job.slices(message, self.of_queries), *of_totals]

    def _filled(self, leg: Leg) -> Stored:
        memory = empty(self.job.form, leg.parts)
        return copied(
            self.keys if leg.message.kind == "keys" else self.queries, memory, lambda b: self.rows[self.job.total(b)]
        )

    def _compute(self, item: Item, arrived: Arrived, into: Mapping[tuple[str, int], Stored]) -> None:
        rank = self.job.rank
        if item.asker == rank:
            queries, dq = self.queries, self.dq.at(item.heads, item.queries)
            rows = self.rows[self.job.total(item.branch)].at(item.heads, item.queries)
        else:
            queries, dq = arrived.queries[item.asker], into["queries", item.asker].at(item.heads, item.queries)
            rows = queries.at(item.heads, item.queries, item.branch)
        q, dout, *whole = queries.at(item.heads, item.queries).tensors
        number, lse, *share = (*rows.tensors, *whole)
        if share:
            dout = (dout * share[0][..., None]).to(dout.dtype)
        keys = (self.keys if item.keeper == rank else arrived.keys[item.keeper]).at(item.heads, item.keys)
        dkeys = (self.dkeys if item.keeper == rank else into["keys", item.keeper]).at(item.heads, item.keys)
        out = self.zero.expand(dout.shape)  # what is needed of the output is in the number
        self.job.part_backward(item, (q, out, lse, dout, number), keys, dq, dkeys, self.dinputs)

    def _add(self, arrived: Arrived) -> None:
        """Add gradients that others computed for what they were sent."""
        for own, came in ((self.dkeys, arrived.keys), (self.dq, arrived.queries)):
            for stored in came.values():
                for section in stored.sections:
                    heads = section.heads.start, section.heads.stop
                    for run, first in zip(section.rows.runs, section.rows.first, strict=True):
                        for to, t in zip(own.at(heads, run).tensors, section.tensors, strict=True):
                            to.add_(t[:, :, first : first + run.length])


def _taken(made: dict[tuple[str, int], Stored], leg: Leg) -> Stored:
    return made.pop((leg.message.kind, leg.target))
