"""``attnspec.distribute`` of patterns of features, and of mixtures that have such branches."""

from __future__ import annotations

import pytest
import torch

import attnspec
from attnspec.runtime.core.arguments import CallError
from tests.support.marks import slow
from tests.support.ranks import Simulated, simulate
from tests.support.spread import Layer, check

GATES = -torch.linspace(0, 3, 2 * 4 * 50).view(2, 4, 50).sin().abs()
DOCUMENTS = torch.arange(50).div(13, rounding_mode="floor").expand(2, 50).contiguous()
LAYERS = [
    Layer("attention a { attend causal  linear elu(x) + 1  divide total }"),
    Layer("lolcats", params={"width": 8}),
    Layer("infini", params={"segment": 8}, inputs={"gate": torch.tensor([0.5, -1.0, 2.0, 0.0])}, lse=False),
    Layer("mamba2", inputs={"log_a": GATES}, lse=False),
    Layer("gated_delta", inputs={"gate": GATES, "beta": -GATES}, lse=False),
    Layer("latte_bidirectional", lse=False),
    Layer("linear_documents", inputs={"doc": DOCUMENTS}),
    Layer("linear_window", params={"width": 9}),
    Layer("linear", dtype=torch.bfloat16),
    Layer(
        "attention a { input late: float[n]  mix { branch share sigmoid(late[q]) { attend window(5) }"
        " branch share 1.0 - sigmoid(late[q]) { attend causal  linear softmax(x)  divide total } } }",
        inputs={"late": torch.linspace(-2, 2, 50)},
        lse=False,
    ),
]


@pytest.mark.parametrize("ranks", [3, slow(4), slow(8)])
@pytest.mark.parametrize("layer", [layer if number == 0 else slow(layer) for number, layer in enumerate(LAYERS)])
def test_over_ranks_as_on_one(layer: Layer, ranks: int) -> None:
    check(layer, ranks)


def test_plans_print_and_other_shards_are_refused() -> None:
    def run(transport: Simulated) -> None:
        far = attnspec.distribute(attnspec.compile("lolcats"), transport, n=1000, heads=4, kv_heads=2, dim=16)
        assert str(far.plan).splitlines()[0] == "lolcats: contiguous shards of 500 positions"
        assert "branch 1: each rank's state of 1,088 numbers goes to later ones" in str(far.plan)
        with pytest.raises(CallError, match='hold one piece of the sequence each, in order: shard="contiguous", not'):
            attnspec.distribute(attnspec.compile("linear"), transport, n=100, heads=4, dim=16, shard="zigzag")
        linear = attnspec.distribute(attnspec.compile("linear_documents"), transport, n=20, heads=1, dim=16)
        q = linear.shard(torch.randn(1, 1, 20, 16), 2)
        with pytest.raises(CallError, match="given the same `doc`, whole: rank 1 got another one than rank 0"):
            linear(q, q, q, doc=torch.full((1, 20), transport.rank))

    simulate(2, run)
