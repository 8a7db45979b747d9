"""Attention over ranks is one operator: torch.compile keeps it whole, and second derivatives are refused."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import attnspec
from tests.support.ranks import Simulated, simulate

pytestmark = pytest.mark.slow
SINK = "attention a { input logit: float[heads]  within causal  sink logit[h] }"


@pytest.mark.parametrize("text", ["causal", SINK, "longnet"])
def test_a_layer_is_compiled_whole(text: str) -> None:
    attend = attnspec.compile(text, **({"branches": [[8, 1], [16, 2]]} if text == "longnet" else {}))

    def run(transport: Simulated) -> None:
        torch.manual_seed(transport.rank)
        far = attnspec.distribute(attend, transport, n=40, heads=2, dim=16)
        q = torch.randn(1, 2, len(far.positions), 16, requires_grad=True)
        inputs = {"logit": torch.tensor([0.5, 2.0], requires_grad=True)} if text == SINK else {}

        def layer(q: Tensor) -> Tensor:
            out, lse = far(q.sin(), q * 2, q, return_lse=True, inputs=inputs)
            return out.cos() + lse[..., None].relu()

        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            found, want = (torch.autograd.grad(f(q).sum(), [q, *inputs.values()]) for f in (compiled, layer))
        for a, b in zip(found, want, strict=True):
            torch.testing.assert_close(a, b)

    simulate(2, run)


def test_operations_are_counted() -> None:
    def run(transport: Simulated) -> tuple[int, int]:
        far = attnspec.distribute(attnspec.compile("causal"), transport, n=40, heads=2, dim=16, shard="contiguous")
        q = torch.randn(3, 2, 20, 16, requires_grad=True)
        with FlopCounterMode(display=False) as forward:
            out = far(q, q, q)
        with FlopCounterMode(display=False) as backward:
            out.sum().backward()
        return forward.get_total_flops(), backward.get_total_flops()

    pairs = 3 * 2 * 40 * 41 // 2
    counted = simulate(2, run).results
    assert sum(forward for forward, _ in counted) == 2 * pairs * 32
    assert sum(backward for _, backward in counted) == 2 * pairs * 80


def test_a_length_that_is_not_said_is_that_of_what_was_sharded() -> None:
    def run(transport: Simulated) -> None:
        far = attnspec.distribute(attnspec.compile("causal"), transport, heads=2, dim=16)
        q = far.shard(torch.randn(1, 2, 40, 16), 2)
        found = torch.compile(lambda q: far(q, q, q).sin(), fullgraph=True, backend="aot_eager")(q)
        torch.testing.assert_close(found, far(q, q, q).sin())

    simulate(2, run)


def test_second_derivatives_are_refused() -> None:
    def run(transport: Simulated) -> None:
        far = attnspec.distribute(attnspec.compile("causal"), transport, n=40, heads=2, dim=16)
        q = torch.randn(1, 2, 20, 16, requires_grad=True)
        (d,) = torch.autograd.grad(far(q, q, q).sin().sum(), q, create_graph=True)
        with pytest.raises(NotImplementedError, match="second derivatives"):
            d.sum().backward()

    simulate(2, run)
