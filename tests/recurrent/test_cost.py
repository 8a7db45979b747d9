"""What a sequence takes, before anything runs."""

from __future__ import annotations

import pytest

import attnspec
from tests.support.recurrent import Attending, Layered, Small, wrapped

APART = """attention apart(segment = 8) {{
    axis read[2]
    axis token[n]
    axis written[2]
    read -> read: true
    token -> read: true
    token -> token: causal and ({which} or q - k < 3)
    written -> token: true
    written -> written: true
    recur token by segment
    carry written -> read, written
}}"""


def test_the_cost_is_printed() -> None:
    model = wrapped(Small(), "rmt", slots=2, segment=8)
    assert str(model.cost(21)).splitlines()[:2] == [
        "cost at n = 21, batch 1: 3 segments",
        "    positions  33 run, 1.571 for each token",
    ]
    layered = wrapped(Layered(), "transformer_xl", segment=8).cost(21)
    assert (layered.operations, layered.carried_bytes, layered.kept_bytes) == (None, None, None)
    assert "    kept       not known: the model hides it" in str(layered)


@pytest.mark.parametrize("which", ["h < 1", "h < heads // 2", "b < 1"])
def test_heads_and_entries_that_are_told_apart_are_all_counted(which: str) -> None:
    model = wrapped(Attending(), APART.format(which=which))
    cost = model.cost(21, batch=3, heads=2)
    spec = model.spec
    each = [spec.mask(tokens + 4, tokens + 4, heads=2, batch=3) for tokens in (8, 8, 5)]
    whole = sum(int(mask.sum()) for mask in each)
    assert cost.pairs == whole
    assert f"pairs      {whole:,} for each layer, all heads and batch entries together" in str(cost)
    with pytest.raises(attnspec.CallError, match="a function hides how many heads: heads="):
        model.cost(21)
