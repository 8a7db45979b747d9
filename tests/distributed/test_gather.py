"""Patterns of which no plan can be made: refused, with the reason, or all keys are gathered where that is asked for."""

from __future__ import annotations

import pytest
import torch

import attnspec
from attnspec.runtime.core.arguments import CallError
from tests.support.marks import slow
from tests.support.ranks import Simulated, simulate
from tests.support.spread import Layer, check

TABLE = "attention a { input keep: bool[heads, n_q, n]  within causal and keep[h, q, k] }"
KEEP = torch.rand(4, 50, 50, generator=torch.Generator().manual_seed(0)) < 0.4
SINK = "attention a { input keep: bool[n_q, n]  input logit: float[heads]  attend keep[q, k]  sink logit[h] }"
LOGIT = torch.tensor([0.5, -1.0, 2.0, 0.0])


@pytest.mark.parametrize("ranks", [3, slow(8)])
@pytest.mark.parametrize(
    "layer",
    [
        Layer(SINK, inputs={"keep": KEEP[0], "logit": LOGIT}),
        slow(Layer(TABLE, inputs={"keep": KEEP})),
        slow(Layer("reformer", n=64, kv_heads=4, params={"buckets": 4, "chunk": 16})),
        slow(Layer("linear", lse=False)),
        slow(Layer("attention a { attend k <= q or k < 4  linear elu(x) + 1  divide total }")),
    ],
    ids=lambda layer: layer.text[:60] if isinstance(layer, Layer) else None,
)
def test_all_keys_are_gathered(layer: Layer, ranks: int) -> None:
    check(layer, ranks, gather="keys")


def test_what_has_no_plan_is_refused_with_the_reason() -> None:
    def run(transport: Simulated) -> None:
        for text, said in (
            ("reformer", "orders all positions by what queries and keys hold"),
            (TABLE, "which pairs there are `keep` says in each call"),
        ):
            with pytest.raises(CallError, match=said) as error:
                attnspec.distribute(attnspec.compile(text), transport, n=256, heads=4, dim=16)
            assert 'gather="keys"' in str(error.value)
        both_sides = attnspec.compile("attention a { linear x  decay -0.1 }")
        with pytest.raises(CallError, match="keys come from both sides"):
            attnspec.distribute(both_sides, transport, n=64, heads=4, dim=16)
        far = attnspec.distribute(attnspec.compile(TABLE), transport, n=64, heads=4, dim=16, gather="keys")
        assert str(far.plan) == (
            "a: contiguous shards of 32 positions; each rank gathers all keys and values, 16.4 kB, and computes its own"
            " rows"
        )
        with pytest.raises(CallError, match="shard=\"contiguous\", not 'auto' in 2 chunks"):
            attnspec.distribute(attnspec.compile(TABLE), transport, heads=4, dim=16, chunks=2, gather="keys")

    simulate(2, run)
