"""From what keys give to the rows of a rank to what the pattern means: sinks, and branches of mixtures put together.

And back: what gradients of these rows come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from attnspec.runtime.attention import Attention
from attnspec.runtime.cpp.merge import mixed
from attnspec.runtime.distributed.backward import OfRows
from attnspec.runtime.distributed.duties import Duties
from attnspec.runtime.distributed.stored import Form
from attnspec.runtime.distributed.sums import Total, with_sink
from attnspec.runtime.parts.attention import logit_of_rows
from attnspec.runtime.parts.where import Asked
from attnspec.spec import contents
from attnspec.spec.spec import Spec


class Kept(NamedTuple):
    """Results of a call: output and log-sum-exp, and of each branch that is apart the same (or empty tensors)."""

    out: Tensor
    lse: Tensor
    outs: Tensor
    lses: Tensor


class Finish:
    """What stands around the parts of a pattern, for the rows of one rank. ``apart``: each branch has its own total."""

    def __init__(
        self, attend: Attention, duties: Duties, form: Form, inputs: Mapping[str, Tensor], apart: bool
    ) -> None:
        self.attend, self.duties, self.form, self.inputs, self.apart = attend, duties, form, inputs, apart
        self.shared = attend._facts.shared

    @property
    def sink(self) -> Tensor | None:
        """That of a call with one output."""
        return None if self.apart else self._sink(self.attend, self.inputs)

    def forward(self, totals: Sequence[Total], keep: bool) -> Kept:
        """The results; ``totals`` may be written over."""
        dtype = self.form.dtype
        none, no_lses = (torch.empty(0, dtype=kind, device=self.form.device) for kind in (dtype, torch.float32))
        if not self.apart:
            return Kept(*totals[0], none, no_lses)
        if self.shared:
            totals = [with_sink(*total, sink) for total, sink in zip(totals, self._sinks(self.inputs), strict=True)]
        outs = torch.stack([out for out, _ in totals]).to(dtype) if keep else none
        lses = torch.stack([lse for _, lse in totals]) if keep and self.shared else no_lses
        whole = None if self.shared else self._sink(self.attend, self.inputs)
        out, lse = mixed(totals, self._shares(self.inputs), whole)  # gradients are worked out by hand
        return Kept(out.to(dtype), lse, outs, lses)

    def backward(self, kept: Kept, dout: Tensor, dlse: Tensor | None, dinputs: Mapping[str, Tensor]) -> list[OfRows]:
        """What gradients of each total come from; those of inputs that stand beside the parts are added."""
        with torch.inference_mode(False), torch.no_grad():  # operators leave the graph out, under enable_grad too
            return self._backward(kept, dout, dlse, dinputs)

    def _backward(self, kept: Kept, dout: Tensor, dlse: Tensor | None, dinputs: Mapping[str, Tensor]) -> list[OfRows]:
        outs = list(kept.outs) if self.apart else [kept.out]
        dots = [dots_of_rows(dout, out) for out in outs]
        given = {name: t.detach().requires_grad_(name in dinputs) for name, t in self.inputs.items()}
        with torch.enable_grad():
            shares = self._shares(given)
            sinks = self._sinks(given) if self.shared else [self._sink(self.attend, given)]
        if self.shared:
            _chained(shares, dots, given, dinputs)
            of_rows = zip(kept.lses, dots, [share.detach() for share in shares], strict=True)
            rows = [OfRows(lse, -(dot * share), share) for lse, dot, share in of_rows]
            of_sinks = [row.number for row in rows]
        else:
            added = torch.zeros_like(dots[0]) if dlse is None else dlse
            rows = [OfRows(kept.lse, added - dot) for dot in dots]
            of_sinks = [added if self.apart else rows[0].number]  # detached: not by way of the output
        for row, sink, by in zip(rows, sinks, of_sinks, strict=False):
            if sink is not None:
                seen = sink > -torch.inf
                weight = torch.where(seen, torch.exp(torch.where(seen, sink - row.lse, 0.0)), 0.0).detach()
                _chained([sink], [weight * by], given, dinputs)
        return rows

    def _sinks(self, inputs: Mapping[str, Tensor]) -> list[Tensor | None]:
        """Those of branches with given shares, which have their own."""
        return [self._sink(branch, inputs) for branch in self.attend.branches]

    def _sink(self, attend: Attention, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """The logit of each row, minus infinity where there is none: (batch, heads, rows)."""
        if attend.spec.sink is None:
            return None
        found = self._by_row(attend.program.encoded, attend.spec, inputs, -torch.inf)
        return found.expand(self.form.batch, self.form.heads, self.duties.length)

    def _shares(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        mixture = self.attend._mixture
        shape = self.form.batch, self.form.heads, self.duties.length
        arounds = [] if mixture is None else [share.around for share in mixture.shares]
        return [self._by_row(around.program, around.spec, inputs, 0.0).expand(shape) for around in arounds]

    def _by_row(self, program: str, spec: Spec, inputs: Mapping[str, Tensor], padding: float) -> Tensor:
        """A formula at the positions of the rows, differentiable in inputs."""
        assert spec.sink is not None
        form, n = self.form, self.duties.n
        names = {declared.name for declared in spec.inputs}
        given = {name: t for name, t in inputs.items() if name in names}

        def at(start: int, rows: int) -> Tensor:
            like = torch.empty(1, dtype=form.dtype, device=form.device).expand(form.batch, form.heads, rows, form.dim)
            asked = Asked.of(spec.name, q_start=start, k_start=0, n=n, n_q=n, kv_heads=form.kv_heads)
            found = logit_of_rows(program, spec, like, asked, given)
            return found.expand(form.batch, form.heads, rows)

        runs = self.duties.rows.runs
        if "q" in contents.free(spec.sink):
            pieces = [at(run.start, run.stop - run.start)[:, :, :: run.step] for run in runs]
        else:
            pieces = [at(run.start, 1).expand(-1, -1, run.length) for run in runs]
        if self.duties.padding:
            empty = torch.full((1,), padding, device=form.device)
            pieces.append(empty.expand(form.batch, form.heads, self.duties.padding))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 2)


def dots_of_rows(a: Tensor, b: Tensor) -> Tensor:
    """Sums over the last dimension of products, float32: head by head, for their memory."""
    found = torch.empty(a.shape[:3], dtype=torch.float32, device=a.device)
    for at in range(a.shape[0]):
        for head in range(a.shape[1]):
            torch.sum(a[at, head].float() * b[at, head].float(), -1, out=found[at, head])
    return found


def _chained(
    values: Sequence[Tensor], by: Sequence[Tensor], given: Mapping[str, Tensor], dinputs: Mapping[str, Tensor]
) -> None:
    """Gradients of inputs that values were made from, added."""
    pairs = [(value, d) for value, d in zip(values, by, strict=True) if value.requires_grad]
    if pairs and dinputs:
        made = [value for value, _ in pairs], [given[name] for name in dinputs], [d for _, d in pairs]
        found = torch.autograd.grad(*made, allow_unused=True)
        for to, d in zip(dinputs.values(), found, strict=True):
            if d is not None:
                to += d
