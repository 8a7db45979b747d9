"""Costs and masks of patterns with inputs: with values, with examples, or as bounds that say so."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

import attnspec
from attnspec.check.check import check_text
from attnspec.codegen.cost import counted
from attnspec.codegen.cost.counted import TooMany
from attnspec.codegen.plan.visits import visits
from attnspec.relation.sizes import Sizes
from attnspec.report.insight import insight
from attnspec.runtime.attention import Attention, CallError
from attnspec.runtime.prepare.example import example
from attnspec.runtime.prepare.given import examples
from tests.support.shipped import SMALL, SOFTMAX

WITH_INPUTS = [name for name in SOFTMAX if attnspec.read(name).inputs]


@pytest.mark.parametrize("name", WITH_INPUTS)
def test_costs_with_inputs_count_the_mask(name: str) -> None:
    attend = attnspec.compile(name, params=SMALL.get(name, {}))
    n, heads, batch = (96 if attend.spec.axes else 203), 2, 2
    n = {"bigbird": 192, "bigbird_mixture": 192, "etc": 105}.get(name, n)
    sizes = attend._call_sizes(n, None, heads, None, batch)
    inputs = example(attend.spec, sizes, torch.Generator().manual_seed(3))
    found = attend.cost(n=n, heads=heads, batch=batch, inputs=inputs)
    assert found.exact
    assert found.pairs == int(attend.mask(n, heads=heads, batch=batch, **inputs).sum())
    for head in found.heads:
        assert head.computed >= head.pairs // max(1, len(attend.spec.branches))


def test_what_inputs_decide_per_head_or_entry_is_counted_for_each() -> None:
    by_head = attnspec.compile("attention a { input reach: int[heads]  attend 0 <= q - k < reach[h] }")
    assert by_head.cost(n=50, heads=3, reach=[1, 2, 50]).pairs == 50 + 99 + 50 * 51 // 2
    padded = attnspec.compile("padded")
    assert padded.cost(n=50, batch=2, length=[3, 50]).pairs == 50 * 53
    assert padded.cost(n=50, batch=2, length=torch.tensor([3, 50])).pairs == 50 * 53
    assert padded.cost(n=50, batch=2, heads=3, length=7).pairs == 6 * 50 * 7
    drawn = attnspec.compile("attention a { input reach: int[heads] random(1..n, 3)  attend 0 <= q - k < reach[h] }")
    assert drawn.cost(n=50, heads=3).pairs == int(drawn.mask(50, heads=3).sum())


def test_what_is_missing_is_named() -> None:
    padded = attnspec.compile("padded")
    with pytest.raises(
        CallError, match=re.escape("`input length: int[batch]`. Give them by name, cost(n=9, length=...)")
    ):
        padded.cost(n=9)
    with pytest.raises(CallError, match="no input `lenght`: did you mean `length`"):
        padded.cost(n=9, lenght=3)
    with pytest.raises(CallError, match="no argument or input `head`; did you mean `heads`"):
        padded.cost(n=9, head=3)
    with pytest.raises(CallError, match=r"has the shape \(2,\)"):
        padded.cost(n=9, batch=2, length=[1, 2, 3])
    with pytest.raises(CallError, match="given twice"):
        padded.cost(n=9, length=3, inputs={"length": 3})
    with pytest.raises(CallError, match='"example"'):
        padded.mask(9, inputs="examples")
    with pytest.raises(CallError, match="`length` of `padded` is missing"):
        padded.mask(9)


def test_assumptions_are_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    padded, packed = attnspec.compile("padded"), attnspec.compile("packed")
    assumed = padded.cost(n=4096, inputs="example")
    assert f"length ({assumed.pairs // 4096:,})" in str(assumed)
    doc = torch.arange(4096)[None] // 500
    bound, found = packed.cost(n=4096), packed.cost(n=4096, doc=doc)
    assert not bound.exact
    assert "pairs     at most 8,390,656" in str(bound)
    assert "documents of mean length" in str(found)
    assert found.pairs == 8 * 500 * 501 // 2 + 96 * 97 // 2
    assert found.full + found.partial < (bound.full + bound.partial) / 4
    monkeypatch.setattr(counted, "_MOST_TILES", 20)
    with pytest.raises(TooMany, match="more than 20 tiles: too many to look at"):
        packed.cost(n=4096, doc=doc)
    monkeypatch.undo()
    ordered = attnspec.compile("reformer", params=SMALL["reformer"])
    assert not ordered.cost(n=128).exact
    buckets = torch.arange(128).remainder(8).expand(1, 1, 2, 128)
    assert ordered.cost(n=128, buckets=buckets).pairs == int(ordered.mask(128, buckets=buckets).sum())


def test_tiles_that_inputs_rule_out_are_not_visited() -> None:
    table = attnspec.compile("block_table")
    keep = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    keep[0, 0, [0, 2, 3], [1, 1, 3]] = True
    found = table.cost(n=250, keep=keep)
    assert (found.full, found.partial, found.pairs) == (3, 0, 64 * 64 + 64 * 64 + 58 * 58)


def test_a_window_and_a_prefix_of_a_document_walk_their_tiles_only() -> None:
    local = "attention a { input doc: int[batch, n] sorted  attend doc[q] == doc[k] and 0 <= q - k and q - k < 512 }"
    one = np.zeros((1, 4096), dtype=np.int64)
    few = (np.arange(4096) // 1501)[None]
    for doc in (one, few):
        plain = attnspec.compile(local).cost(n=4096, doc=doc)
        both = attnspec.compile("packed_window", start=4, recent=512).cost(n=4096, doc=doc)
        assert plain.pairs < both.pairs < 1.01 * plain.pairs
        assert both.heads[0].computed < 1.3 * plain.heads[0].computed
        none = attnspec.compile("packed_window", start=0, recent=512).cost(n=4096, doc=doc)
        assert (none.pairs, none.heads[0].computed) == (plain.pairs, plain.heads[0].computed)


@pytest.mark.parametrize("n", [1100, 2048, 16384])
def test_an_example_has_a_document_that_is_longer_than_the_window(n: int) -> None:
    sizes = Sizes(n, n, 1, 1, 2, True)
    doc = example(attnspec.read("packed_window"), sizes, torch.Generator().manual_seed(0))["doc"]
    for row in doc:
        lengths = row.unique(return_counts=True)[1]
        assert lengths.max() > 1024
        assert len(lengths) > 1 or n == 1100
    docs = example(attnspec.read("packed"), sizes, torch.Generator().manual_seed(0))["doc"]
    assert len(docs[0].unique()) == round(n / 500)


def test_inputs_whose_names_collide() -> None:
    text = "attention a { input dim: int[batch]  input scale: float[heads]  within k < dim  score s + scale[h] * k }"
    attend = attnspec.compile(text, target="dense")
    q, k, v = torch.randn(3, 1, 2, 10, 8).unbind(0)
    inputs: dict[str, Any] = {"dim": torch.tensor([4]), "scale": torch.randn(2)}
    assert attend.cost(n=10, heads=2, inputs=inputs).pairs == attend.mask(10, heads=2, inputs=inputs).sum() == 80
    assert attend.mask(10, dim=4).sum() == 40
    want = (
        torch.softmax(q @ k[:, :, :4].mT / 8**0.5 + inputs["scale"][:, None, None] * torch.arange(4), -1) @ v[:, :, :4]
    )
    assert torch.allclose(attend(q, k, v, inputs=inputs), want, atol=1e-5)
    with pytest.raises(CallError, match="given twice"):
        attend(q, k, v, inputs=inputs, dim=inputs["dim"])
    with pytest.raises(CallError, match="a mapping from names to tensors, not list"):
        attend(q, k, v, inputs=[4])  # type: ignore[call-overload]


BLOCKS = "attention a { input length: int[batch]  within k // 64 < length }"
HEADS = "attention a { input reach: int[heads]  within causal and q - k <= reach[h] }"
MIXED = """attention a { input bias: float[heads, n]  input low: int[batch]  within causal and low <= k
    score s + bias[h, k] }"""


@pytest.mark.parametrize("source", ["padded", "left_padded", "prefix_lm_lengths", BLOCKS, HEADS, MIXED])
def test_examples_grow_with_the_length(source: str) -> None:
    """What a length bounds is a fixed share of it, so that growth is that of the pattern: n^2."""
    found = insight(attnspec.read(source), Sizes(16384, 16384, 2, 2), 64, "float32", 8)
    assert found.exponent == pytest.approx(2.0, abs=0.01)
    assert not isinstance(found.growth, str)
    assert all(0.01 * n * n < pairs / 2 < 0.99 * n * n for n, pairs, _ in found.growth)


def test_inspect_takes_inputs() -> None:
    spec = attnspec.read("packed")
    doc = np.arange(2048)[None] // 512
    found = insight(spec, Sizes(2048, 2048), 64, "float32", 8, inputs={"doc": doc})
    assert found.exact
    assert not isinstance(found.cost, str)
    assert found.cost.pairs == 4 * 512 * 513 // 2
    two = check_text("attention a { input low: int  input high: int  within low <= k < high }")
    with pytest.raises(CallError, match="depend on `high` too"):
        insight(two, Sizes(64, 64), 64, "float32", 8, inputs={"low": 3})


def test_counted_tiles_are_those_of_the_loops() -> None:
    """Without anything that inputs rule out, the tiles that are looked at are those of the plan."""
    attend: Attention = attnspec.compile("attention a { input w: int[n]  attend w[q] < k  within causal }")
    given = examples(attend.spec, Sizes(300, 300))
    tiles = list(visits(attend.plan.passes[0], Sizes(300, 300), 0, 0, 0))
    found = attend.cost(n=300, inputs=given.arrays)
    assert found.full + found.partial == len(tiles)


def test_plans_say_with_which_inputs_layouts_were_compared() -> None:
    attend = attnspec.compile("attention a { input w: int  attend 0 <= q - k < w and (q - k) % 16 == 0 }")
    assert "chosen at n = 8,192, w = n, by estimated time:" in str(attend.plan)
    few = attend.plan_for(w=40).classes[0].choices[0]
    assert few is not None
    assert few.inputs == "w = 40"
    assert few.candidates[0].pairs == 8192 + 8192 - 16 + 8192 - 32
    assert "w = n" not in str(attend.plan_for(inputs="example"))
    with pytest.raises(CallError, match="no input `v`"):
        attend.plan_for(v=3)
