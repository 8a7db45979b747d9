"""A call computed residue by residue, by strided parts, against dense attention in float64."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor

from attnspec.codegen.ranks.runs import Run
from attnspec.runtime import attend as around
from attnspec.runtime.attention import Attention
from attnspec.runtime.distributed.strided import WholeInputs, strided
from tests.support.oracle import TOLERANCE, close


def prepared(attend: Attention, q: Tensor, k: Tensor, inputs: Mapping[str, Tensor]) -> WholeInputs:
    """The inputs as strided parts take them."""
    (batch, heads, n_q, _), (_, kv_heads, n, _) = q.shape, k.shape
    return WholeInputs.of(attend.spec, inputs, attend.spec.sizes(n, n_q, heads, batch, kv_heads), q.device)


def agree_in_strides(
    attend: Attention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    steps: tuple[int, int],
    inputs: Mapping[str, Tensor] | None = None,
) -> None:
    """Assert that parts of every step-th row and key, of all residues, give out, lse and gradients of the oracle."""
    given, first = dict(inputs or {}), attend.spec.offset(k.shape[2], q.shape[2])
    whole = prepared(attend, q, k, given)
    options: dict[str, Any] = {"n": k.shape[2], "n_q": q.shape[2], "inputs": whole}
    exact = [t.detach().double().requires_grad_() for t in (q, k, v)]
    sources = {n: t.detach().double().requires_grad_(t.requires_grad) if t.is_floating_point() else t
               for n, t in whole.given.items()}  # fmt: skip
    want = around.dense(attend.spec, *exact, None, sources)
    empty = torch.isinf(want[1])
    dout, dlse = torch.randn(want[0].shape).to(q.dtype), torch.randn(empty.shape).masked_fill(empty, 0.0)
    trained = {name: t for name, t in given.items() if t.requires_grad}
    of = [*exact, *(sources[name] for name in trained)]
    masked = want[1].masked_fill(empty, 0.0)
    wanted = torch.autograd.grad((want[0], masked), of, (dout.double(), dlse), materialize_grads=True)
    out, lse = torch.zeros(want[0].shape), torch.full(empty.shape, -torch.inf)
    sums = [torch.zeros(t.shape) for t in of]
    with torch.no_grad():
        q, k, v = (t.detach() for t in (q, k, v))
        rows = [Run(first + r, first + q.shape[2], steps[0]) for r in range(min(steps[0], q.shape[2]))]
        keys = [Run(c, k.shape[2], steps[1]) for c in range(min(steps[1], k.shape[2]))]
        for queries in rows:
            r = slice(queries.start - first, None, queries.step)
            into = out[:, :, r].contiguous(), lse[:, :, r].contiguous()
            for run in keys:
                at, c = strided(attend, queries, run), slice(run.start, None, run.step)
                at.part(q[:, :, r], k[:, :, c], v[:, :, c], out=into[0], lse=into[1], **options)
            for whole_of, t in zip((out, lse), at.add_sink(*into, **options), strict=True):
                whole_of[:, :, r] = t
        tolerance = TOLERANCE[q.dtype]
        assert torch.equal(torch.isinf(lse), empty), "the empty rows differ"
        close("lse", lse.masked_fill(empty, 0.0), want[1].masked_fill(empty, 0.0), tolerance)
        close("out", out, want[0], tolerance)
        for queries, run in product(rows, keys):
            r, c = slice(queries.start - first, None, queries.step), slice(run.start, None, run.step)
            results = [t[:, :, r] for t in (out.to(q.dtype), lse, dout, dlse)]
            made = strided(attend, queries, run).part_backward(
                *(q[:, :, r], k[:, :, c], v[:, :, c]), *results, dinputs=dict(zip(trained, sums[3:], strict=True)),
                **options,
            )  # fmt: skip
            for to, place, d in zip(sums, (r, c, c), made, strict=False):
                to[:, :, place] += d
    for name, got, right in zip(("q", "k", "v", *trained), sums, wanted, strict=True):
        if name in "qkv" or attend.spec.sink is None:
            close(f"d{name}", got, right, 2 * tolerance)
