"""Every shipped spec over ranks: what one device gives, or a refusal that says why, and then by gathering keys."""

from __future__ import annotations

import pytest
import torch

import attnspec
from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.prepare.example import example
from tests.support.shipped import SMALL
from tests.support.spread import Layer, check

REFUSED = {
    "bigbird": "`rand` says in each call",
    "block_table": "`keep` says in each call",
    "block_topk": "`top` says in each call",
    "forgetting": "decay beside softmax",
    "hmt": "segments follow one another",
    "longformer_axes": "no n makes the axes add up to 96 keys and 96 queries",
    "memory_layers": "no n makes the axes add up to 96 keys and 96 queries",
    "reformer": "orders all positions by what queries and keys hold",
    "reformer_bucket": "orders all positions by what queries and keys hold",
    "rmt": "segments follow one another",
    "rmt_both_ways": "segments follow one another",
    "transformer_xl": "no n makes the axes add up to 96 keys and 96 queries",
    "tree": "`tree` says in each call",
}
"""Those of which no plan is made, and why."""
DIM = 16


def layer_of(name: str) -> Layer:
    """A call of about a hundred positions, with inputs."""
    n = 128 if name == "neighborhood_2d_shifted" else 96
    dim = 32 if name == "longrope" else DIM  # its factors are those of 16 pairs
    attend = attnspec.compile(name, **SMALL.get(name, {}))
    spec = attend.spec
    kv_heads = 4 if spec.order else 2
    sizes = Sizes(n, n, 4, kv_heads, 2, spec.align == "end", spec.sizes(n)["m"])
    inputs = example(spec, sizes, torch.Generator().manual_seed(0), {"dim": dim})
    totals = all(one.divides_by_total or not one.linear for one in spec.weighings)
    return Layer(
        name, n, 4, kv_heads, dim, 2, params=SMALL.get(name, {}), inputs=inputs, lse=totals and not spec.shared
    )


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("name", attnspec.shipped())
def test_over_ranks_as_on_one_or_refused(name: str, ranks: int) -> None:
    if "axes" in REFUSED.get(name, ""):
        with pytest.raises(CallError, match=REFUSED[name]):
            check(Layer(name, 96, dim=DIM, params=SMALL.get(name, {})), ranks)
        return
    layer = layer_of(name)
    if name not in REFUSED:
        check(layer, ranks)
        return
    with pytest.raises(CallError, match=REFUSED[name]) as error:
        check(layer, ranks)
    assert 'gather="keys"' in str(error.value)
    check(layer, ranks, gather="keys")
