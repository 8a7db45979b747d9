"""A call computed in parts, by rows, keys, heads and batch entries, against the whole call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import attnspec
from attnspec.runtime.attention import Attention
from tests.support.oracle import TOLERANCE, close

Draw = Callable[[st.SearchStrategy[Any]], Any]
Ends = tuple[int, ...]
Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Cuts:
    """Where a call is cut, as shares of its sizes: rows, keys, key heads and batch entries."""

    rows: tuple[float, ...]
    keys: tuple[float, ...]
    heads: tuple[float, ...] = ()
    entries: tuple[float, ...] = ()


@st.composite
def cuts(draw: Draw) -> Cuts:
    """Anywhere: there are empty parts, and parts of one row."""
    share = st.sampled_from([0.0, 0.01, 1.0]) | st.floats(0, 1)
    return Cuts(*(tuple(draw(st.lists(share, max_size=most))) for most in (2, 3, 1, 1)))


def _ends(shares: tuple[float, ...], size: int) -> Iterator[tuple[int, int]]:
    return pairwise(sorted([0, *(round(share * size) for share in shares), size]))


@dataclass(frozen=True)
class Piece:
    """A part of a call: of queries, of keys, and what ``part`` is told of where it lies."""

    of_q: tuple[slice, slice, slice]
    of_k: tuple[slice, slice, slice]
    where: dict[str, int]

    @property
    def row_numbers(self) -> dict[str, int]:
        """What ``add_sink`` is told."""
        return {name: number for name, number in self.where.items() if name != "k_start"}


def rows_of(attend: Attention, q: Tensor, k: Tensor, at: Cuts) -> Iterator[list[Piece]]:
    """The parts of all keys, for each part of the rows."""
    (batch, heads, n_q, _), (_, kv_heads, n, _) = q.shape, k.shape
    first, group = n - n_q if attend.spec.align == "end" else 0, heads // kv_heads
    sizes = {"n": n, "n_q": n_q, "heads": heads, "kv_heads": kv_heads, "batch": batch}
    for (b0, b1), (g0, g1), (q0, q1) in product(
        _ends(at.entries, batch), _ends(at.heads, kv_heads), _ends(at.rows, n_q)
    ):
        if g0 == g1:
            continue  # a call has heads
        found = []
        for k0, k1 in _ends(at.keys, n):
            of_q = (slice(b0, b1), slice(g0 * group, g1 * group), slice(q0, q1))
            where = {"q_start": first + q0, "k_start": k0, "h_start": g0 * group, "b_start": b0, **sizes}
            found.append(Piece(of_q, (slice(b0, b1), slice(g0, g1), slice(k0, k1)), where))
        yield found


def merged(
    attend: Attention, q: Tensor, k: Tensor, v: Tensor, at: Cuts, inputs: Inputs, **options: Any
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp, float32, of parts that are merged: differentiable."""
    out = q.new_zeros((*q.shape[:3], v.shape[3]), dtype=torch.float32)
    lse = q.new_zeros(q.shape[:3], dtype=torch.float32)
    for pieces in rows_of(attend, q, k, at):
        parts = [
            attend.part(q[p.of_q], k[p.of_k], v[p.of_k], inputs=inputs, **p.where, **options)  # type: ignore[arg-type]
            for p in pieces
        ]
        part = attend.add_sink(*attnspec.merge(parts), inputs=inputs, **pieces[0].row_numbers)
        out, lse = (t.index_put(_index(pieces[0].of_q, t), new) for t, new in zip((out, lse), part, strict=True))
    return out, lse


def _index(at: tuple[slice, slice, slice], t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    b, h, r = (torch.arange(s.start, s.stop) for s in at)
    return b[:, None, None], h[:, None], r


def added(
    attend: Attention, q: Tensor, k: Tensor, v: Tensor, at: Cuts, inputs: Inputs, **options: Any
) -> tuple[Tensor, Tensor]:
    """The same by parts that are added in place, without gradients, and the sink added once."""
    out = torch.zeros((*q.shape[:3], v.shape[3]), device=q.device)
    lse = torch.full(q.shape[:3], float("-inf"), device=q.device)
    with torch.no_grad():
        for pieces in rows_of(attend, q, k, at):
            o, row_lse = out[pieces[0].of_q], lse[pieces[0].of_q]
            for p in pieces:
                given = {**p.where, **options, "inputs": inputs}
                got = attend.part(q[p.of_q], k[p.of_k], v[p.of_k], out=o, lse=row_lse, **given)
                assert got[0] is o
                assert got[1] is row_lse
            for to, t in zip(
                (o, row_lse), attend.add_sink(o, row_lse, inputs=inputs, **pieces[0].row_numbers), strict=True
            ):
                to.copy_(t)
    return out, lse


def summed(
    attend: Attention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    results: tuple[Tensor, Tensor, Tensor, Tensor],
    at: Cuts,
    inputs: Inputs,
    **options: Any,
) -> dict[str, Tensor]:
    """Gradients as sums of those of parts, by name, of float inputs too: ``results`` are out, lse, dout, dlse."""
    sums = {name: torch.zeros(t.shape, device=t.device) for name, t in (("q", q), ("k", k), ("v", v))}
    trained = {name: torch.zeros(t.shape, device=t.device) for name, t in inputs.items() if t.requires_grad}
    for pieces in rows_of(attend, q, k, at):
        for p in pieces:
            into: dict[str, Any] = {"dq": sums["q"][p.of_q], "dk": sums["k"][p.of_k], "dv": sums["v"][p.of_k]}
            into |= {"dinputs": trained, "inputs": inputs, **p.where, **options}
            attend.part_backward(q[p.of_q], k[p.of_k], v[p.of_k], *(t[p.of_q] for t in results), **into)
    return {**sums, **trained}


def agree_in_parts(
    attend: Attention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    at: Cuts,
    inputs: Inputs | None = None,
    tolerance: float | None = None,
    **options: Any,
) -> None:
    """Assert that a call in parts, merged and added, gives what the whole call gives, with all gradients."""
    given = dict(inputs or {})
    tolerance = 2 * TOLERANCE[q.dtype] if tolerance is None else tolerance
    want_out, want_lse = attend(q, k, v, return_lse=True, inputs=given, **options)
    empty = torch.isinf(want_lse)

    def same(got_out: Tensor, got_lse: Tensor) -> None:
        assert got_out.dtype == got_lse.dtype == torch.float32
        assert torch.equal(torch.isinf(got_lse), empty), "the empty rows differ"
        close("lse", got_lse.masked_fill(empty, 0.0), want_lse.masked_fill(empty, 0.0).double(), tolerance)
        close("out", got_out, want_out.double(), tolerance)

    same(*added(attend, q, k, v, at, given, **options))
    if attend.spec.detached:
        return
    got = merged(attend, q, k, v, at, given, **options)
    same(*got)
    generator = torch.Generator().manual_seed(1)
    dout = torch.randn(want_out.shape, generator=generator).to(q.dtype)
    dlse = torch.randn(want_lse.shape, generator=generator).masked_fill(empty, 0.0)
    leaves = {"q": q, "k": k, "v": v, **{name: t for name, t in given.items() if t.requires_grad}}
    of = list(leaves.values())
    want = torch.autograd.grad((want_out, want_lse), of, (dout, dlse), materialize_grads=True)
    by_merge = torch.autograd.grad(got, of, (dout.float(), dlse), materialize_grads=True)
    results = (want_out.detach(), want_lse.detach(), dout, dlse)
    sums = summed(attend, q, k, v, results, at, given, **options)
    for name, whole, a in zip(leaves, want, by_merge, strict=True):
        close(f"d{name} by merge", a, whole.double(), tolerance)
        if name in "qkv" or attend.spec.sink is None:
            close(f"d{name} by sums", sums[name], whole.double(), tolerance)
