"""What keys give to the rows of a rank, added up in float32; of calls in another type, of few rows at a time.

Rows that no later step adds to are through after the first, block by block; only the others are held in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from attnspec.codegen.ranks.schedule import Item
from attnspec.runtime.distributed.duties import Held
from attnspec.runtime.distributed.job import Job
from attnspec.runtime.distributed.rows import Rows
from attnspec.runtime.distributed.stored import Column, Form, Stored

Total = tuple[Tensor, Tensor]
"""An output, (batch, heads, rows, dim_v), and its log-sum-exp, (batch, heads, rows), float32."""


def nothing(form: Form, rows: int) -> Total:
    """Of rows that have seen no key."""
    shape = form.batch, form.heads, rows
    out = torch.zeros((*shape, form.dim_v), dtype=torch.float32, device=form.device)
    return out, torch.full(shape, -torch.inf, dtype=torch.float32, device=form.device)


def columns(form: Form) -> tuple[Column, Column]:
    """Those of results."""
    return Column(torch.float32, form.dim_v), Column(torch.float32)


def with_sink(out: Tensor, lse: Tensor, sink: Tensor | None) -> Total:
    """Rows with their sink; the output in place."""
    if sink is None:
        return out, lse
    more = torch.logaddexp(lse, sink)
    out.mul_(torch.exp(lse - more.clamp(min=torch.finfo(torch.float32).min))[..., None])
    return out, more


class Sums:
    """Those of a call with one output; ``sink``, (batch, heads, rows), is added to what is through.

    Steps after the first add to ``stored``.
    """

    def __init__(self, job: Job, sink: Tensor | None) -> None:
        form, duties = job.form, job.duties
        self._form, self._sink = form, sink
        self._short: Sequence[Held] = () if form.dtype == torch.float32 else duties.short
        self._long: Sequence[Held] = duties.long if self._short else ()
        rows = Rows.of(tuple(held.run for held in self._long)) if self._short else duties.rows
        self._held = nothing(form, rows.count if self._short else duties.length)
        self.stored = Stored.own(form, rows, columns(form), self._held)
        if self._short:
            shape = form.batch, form.heads, duties.length
            self._out = torch.empty((*shape, form.dim_v), dtype=form.dtype, device=form.device)
            self._lse = torch.empty(shape, dtype=torch.float32, device=form.device)
            if duties.padding:
                self._out[:, :, -duties.padding :] = 0
                self._lse[:, :, -duties.padding :] = -torch.inf

    def first(self, items: Sequence[Item], add: Callable[[Item, Stored], None]) -> None:
        """Add items of the first step, by rows: those that are through then are rounded."""
        if not self._short:
            for item in items:
                add(item, self.stored)
        for held in self._long:
            for item in _within(items, held):
                add(item, self.stored)
        for held in self._short:
            self._through(held, _within(items, held), add)

    def _through(self, held: Held, items: Sequence[Item], add: Callable[[Item, Stored], None]) -> None:
        total = nothing(self._form, held.run.length)
        stored = Stored.own(self._form, Rows.of((held.run,)), columns(self._form), total)
        for item in items:
            add(item, stored)
        self._round(held, *total)

    def done(self) -> Total:
        """Output, in the type of the call, and log-sum-exp of all rows."""
        out, lse = self._held
        if not self._short:
            out, lse = with_sink(out, lse, self._sink)
            return out.to(self._form.dtype), lse
        first = 0
        for held in self._long:
            rows = slice(first, first + held.run.length)
            self._round(held, out[:, :, rows], lse[:, :, rows])
            first = rows.stop
        return self._out, self._lse

    def _round(self, held: Held, out: Tensor, lse: Tensor) -> None:
        out, lse = with_sink(out, lse, None if self._sink is None else self._sink[:, :, held.rows])
        self._out[:, :, held.rows] = out
        self._lse[:, :, held.rows] = lse


def _within(items: Sequence[Item], held: Held) -> list[Item]:
    return [cut for item in items if (cut := item.within(held.run)) is not None]
