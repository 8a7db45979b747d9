"""Documents and inputs over ranks: whole or as shards, what they save, and ranks that were given unlike ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

import attnspec
from attnspec.runtime.core.arguments import CallError
from tests.support.marks import slow
from tests.support.oracle import tensors
from tests.support.ranks import Simulated, simulate

N = 60
DOC = torch.stack([torch.arange(N) // 13, torch.arange(N) // 31 * 7])
OFFSETS = "attention a { input cu: int[n] offsets  within causal and cu[q] == cu[k]  sink 0.5 }"
BIAS = """attention a {
    input doc: int[batch, n] sorted  input bias: float[heads, n]  input slope: float[heads]
    within doc[q] == doc[k] and |q - k| < 20  score s * slope[h] + bias[h, k]
}"""
FLOATS = {"bias": torch.linspace(-1, 1, 2 * N).sin().view(2, N), "slope": torch.tensor([0.5, 1.5])}


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("kind", ["zigzag", slow("contiguous"), slow("residue"), slow("greedy")])
@pytest.mark.parametrize(
    ("text", "inputs"),
    [
        (BIAS, {"doc": DOC, **FLOATS}),
        slow("packed", {"doc": DOC}),
        slow("packed_window", {"doc": DOC}),
        slow(OFFSETS, {"cu": torch.tensor([0, 7, 7, 30, 31, N])}),
    ],
)
def test_over_ranks_as_on_one(text: str, inputs: dict[str, torch.Tensor], kind: str, shards: bool) -> None:
    attend = attnspec.compile(text)
    q, k, v = (t.detach() for t in tensors(N, heads=2, batch=2))
    dout = torch.randn(q.shape)
    floats = [name for name, t in inputs.items() if t.is_floating_point()]

    def results(call: Any, vectors: Sequence[torch.Tensor], given: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        given = {name: t.clone().requires_grad_(name in floats) for name, t in given.items()}
        *sources, dout = [t.clone().requires_grad_() for t in vectors]
        out = call(*sources, inputs=given)
        wanted = [*sources, *(given[name] for name in floats)]
        return [out.detach(), *torch.autograd.grad(out, wanted, dout.detach())]

    want = results(attend, (q, k, v, dout), inputs)

    def run(transport: Simulated) -> list[torch.Tensor]:
        far = attnspec.distribute(attend, transport, n=N, heads=2, dim=16, batch=2, shard=kind)
        given = {name: far.shard(t, t.dim() - 1) if shards and t.shape[-1] == N else t for name, t in inputs.items()}
        found = results(far, [far.shard(t, 2) for t in (q, k, v, dout)], given)
        split = [name for name in floats if shards and inputs[name].shape[-1] == N]
        of_floats = zip(floats, found[4:], strict=True)
        gathered = [far.gather(t, t.dim() - 1) if name in split else t for name, t in of_floats]
        return [*(far.gather(t, 2) for t in found[:4]), *gathered]

    for found in simulate(3, run).results:
        for a, b in zip(found, want, strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)


def test_documents_say_what_is_sent() -> None:
    attend = attnspec.compile("packed")

    def run(transport: Simulated) -> None:
        far = attnspec.distribute(attend, transport, n=N, heads=2, dim=16, shard="contiguous")
        q, k, v = (far.shard(t.detach(), 2) for t in tensors(N, heads=2))
        with torch.no_grad():
            far(q, k, v, doc=torch.arange(N)[None] // 20)
        assert far.sent({"doc": torch.arange(N)[None] // 20}) == (16, 0)  # that documents are the same, to two ranks

    ran = simulate(3, run)
    assert max(ran.bytes.values()) < 300  # what tells ranks that they do the same


def test_ranks_with_unlike_documents_are_named() -> None:
    attend = attnspec.compile("packed")

    def run(transport: Simulated) -> None:
        far = attnspec.distribute(attend, transport, n=N, heads=2, dim=16)
        q = far.shard(torch.randn(1, 2, N, 16), 2)
        with pytest.raises(CallError, match="given the same `doc`, whole: rank 2 got another one than rank 0"):
            far(q, q, q, doc=torch.arange(N)[None] // (20 if transport.rank < 2 else 19))

    simulate(3, run)
