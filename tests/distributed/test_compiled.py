"""Attention over ranks is one operator: torch.compile keeps it whole, and second derivatives are refused."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

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
        q = torch.randn(1, 2, 20, 16, requires_grad=True)
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


def test_second_derivatives_are_refused() -> None:
    def run(transport: Simulated) -> None:
        far = attnspec.distribute(attnspec.compile("causal"), transport, n=40, heads=2, dim=16)
        q = torch.randn(1, 2, 20, 16, requires_grad=True)
        (d,) = torch.autograd.grad(far(q, q, q).sin().sum(), q, create_graph=True)
        with pytest.raises(NotImplementedError, match="second derivatives"):
            d.sum().backward()

    simulate(2, run)
