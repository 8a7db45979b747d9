"""A call over simulated ranks against the same call on one device: results, gradients, bits and bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import Tensor

from attnspec.runtime.attention import Attention
from attnspec.runtime.bench.ranks.transport import Counting
from attnspec.runtime.distributed import duties, pieces
from attnspec.runtime.distributed.distribute import distribute
from attnspec.runtime.distributed.transport import Transport
from tests.support.oracle import TOLERANCE, close, tensors
from tests.support.ranks import simulate


@dataclass(frozen=True)
class Call:
    """The sizes of a call over ranks, and its inputs."""

    n: int
    heads: int = 4
    kv_heads: int = 2
    batch: int = 1
    dim: int = 16
    dim_v: int | None = None
    dtype: torch.dtype = torch.float32
    shard: str = "contiguous"
    chunks: int | None = None
    gather: Literal["keys"] | None = None
    inputs: Mapping[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> list[Tensor]:
        """q, k and v, which ask for gradients, of the whole sequence."""
        sizes = (self.n, self.n, self.heads, self.kv_heads, self.batch, self.dim, self.dim_v)
        return list(tensors(*sizes, dtype=self.dtype))

    def gradients(self, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of results of the whole, zero where a row sees nothing."""
        generator = torch.Generator().manual_seed(1)
        dout = torch.randn(out.shape, generator=generator).to(out.dtype)
        return dout, torch.randn(lse.shape, generator=generator).masked_fill(torch.isinf(lse), 0.0)


Results = dict[str, Tensor]


def on_one(attend: Attention, call: Call) -> Results:
    """Results and gradients of one device."""
    given, inputs = call.tensors(), dict(call.inputs)
    shared = attend.spec.shared
    out, lse = (attend(*given, inputs=inputs), None) if shared else attend(*given, return_lse=True, inputs=inputs)
    dout, dlse = call.gradients(out.detach(), torch.zeros(out.shape[:3]) if lse is None else lse.detach())
    of = [*given, *(t for t in inputs.values() if t.requires_grad)]
    results, given_d = ((out,), (dout,)) if lse is None else ((out, lse), (dout, dlse))
    found = torch.autograd.grad(results, of, given_d, materialize_grads=True)
    names = ["dq", "dk", "dv", *(f"d{name}" for name, t in inputs.items() if t.requires_grad)]
    return {"out": out.detach(), "lse": torch.zeros(out.shape[:3]) if lse is None else lse.detach(),
            **dict(zip(names, found, strict=True))}  # fmt: skip


@dataclass(frozen=True)
class Traffic:
    """The bytes that a rank sent, and those that were planned, forward and backward."""

    sent: tuple[int, int]
    planned: tuple[int, int]


def on_rank(attend: Attention, call: Call, transport: Transport, whole: Results) -> tuple[Results, Traffic]:
    """Results and gradients of a rank's rows, gathered again: of one rank among all that run this."""
    counted = Counting(transport)
    options: dict[str, Any] = {name: getattr(call, name) for name in ("dtype", "batch", "shard", "chunks", "gather")}
    far = distribute(
        attend, counted, n=call.n, heads=call.heads, kv_heads=call.kv_heads, dim=call.dim, dim_v=call.dim_v, **options
    )
    q, k, v = (far.shard(t.detach(), 2).requires_grad_() for t in call.tensors())
    dout, dlse = (far.shard(t, 2) for t in call.gradients(whole["out"], whole["lse"]))
    inputs = {name: t.detach().clone().requires_grad_(t.requires_grad) for name, t in call.inputs.items()}
    shared = attend.spec.shared
    with torch.no_grad():
        far(q, k, v, inputs=inputs)  # ranks tell each other what they are about to do, once
    before = counted.sent
    found = far(q, k, v, return_lse=not shared, inputs=inputs)
    forward = counted.sent - before
    out, lse = (found, torch.zeros(found.shape[:3])) if shared else found
    trained = {name: t for name, t in inputs.items() if t.requires_grad}
    before = counted.sent
    results = (out,) if shared else (out, lse)
    of = [q, k, v, *trained.values()]
    grads = torch.autograd.grad(results, of, (dout, dlse)[: len(results)], materialize_grads=True)
    traffic = Traffic((forward, counted.sent - before), far.sent(inputs))
    padding = far.positions < 0
    assert not out[:, :, padding].any()
    assert shared or torch.isinf(lse[:, :, padding]).all()
    local = {"out": out.detach(), "lse": lse.detach(), **dict(zip(("dq", "dk", "dv"), grads, strict=False))}
    gathered = {name: far.gather(t, 2) for name, t in local.items()}
    return {**gathered, **{f"d{name}": t for name, t in zip(trained, grads[3:], strict=True)}}, traffic


def agree(attend: Attention, call: Call, found: Results, want: Results) -> None:
    """Assert that results agree with those of one device."""
    tolerance = 2 * TOLERANCE[call.dtype]
    empty = torch.isinf(want["lse"])
    assert torch.equal(torch.isinf(found["lse"]), empty), "the empty rows differ"
    for name, t in want.items():
        got, right = (t.masked_fill(empty, 0.0) for t in (found[name], t)) if name == "lse" else (found[name], t)
        assert got.dtype == right.dtype
        close(name, got, right.double(), tolerance)


def agree_over_ranks(attend: Attention, call: Call, ranks: int, seeds: Sequence[int] = (0,)) -> list[Traffic]:
    """Assert that simulated ranks give what one device gives, the same bits whenever messages arrive."""
    want = on_one(attend, call)
    first: Results | None = None
    traffic: list[Traffic] = []
    for seed in seeds:
        # As long messages are: rows of others in several blocks, and with odd seeds tensors in pieces.
        with patch.object(duties, "FEWEST", 8), patch.object(pieces, "LARGE", 128 if seed % 2 else pieces.LARGE):
            ran = simulate(ranks, lambda transport: on_rank(attend, call, transport, want), seed)
        for found, _ in ran.results:
            first = found if first is None else first
            for name, t in found.items():
                assert torch.equal(t, first[name]), f"{name}: other bits with seed {seed}, or on another rank"
        traffic = [one for _, one in ran.results]
    assert first is not None
    agree(attend, call, first, want)
    trained = any(t.requires_grad for t in call.inputs.values())  # whose gradients ranks add up, beside the plan
    for rank, one in enumerate(traffic):
        got, right = (pair[:1] if trained else pair for pair in (one.sent, one.planned))
        assert got == right, f"rank {rank} sent {got} bytes of {right} planned"
    return traffic
