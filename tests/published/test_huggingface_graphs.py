"""Models of transformers with their own masks in our kernels: whole graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import attnspec
import attnspec.transformers as hf
from attnspec.runtime.huggingface.tiny import CACHE
from tests.published.patterns import recomputed
from tests.published.tiny import decoder, ids, ours, trained

LEFT = torch.tensor([[1] * 20, [0] * 5 + [1] * 15, [0] * 2 + [1] * 18])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps_traced"), [("Llama", 1), ("Gemma 2", 2)])  # as with eager attention
def test_graphs(name: str, steps_traced: int) -> None:
    """One graph for padding, one for training, and as many for steps with a static cache as the model needs itself."""
    torch.compiler.reset()
    model, counted = ours(name), CompileCounterWithBackend("aot_eager")
    graph = {"fullgraph": True, "backend": counted}
    whole = torch.compile(model, **graph)
    found = whole(ids(3, 20), attention_mask=LEFT, use_cache=False).logits
    expected = model(ids(3, 20), attention_mask=LEFT, use_cache=False).logits
    torch.testing.assert_close(found[LEFT == 1], expected[LEFT == 1], atol=1e-5, rtol=1e-5)
    assert counted.frame_count == 1
    for got, want in zip(trained(model, whole), trained(model), strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
    assert counted.frame_count == 2
    given = {"attention_mask": LEFT, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(ids(3, 20), **given)
    eager = model.forward
    graphs = CompileCounterWithBackend("aot_eager")
    steps = torch.compile(eager, fullgraph=True, backend=graphs)

    def forward(input_ids: Tensor, **more: Any) -> Any:
        return (steps if input_ids.shape[1] == 1 else eager)(input_ids=input_ids, **more)

    model.forward = forward
    static = {"cache_implementation": "static", "disable_compile": True}
    assert torch.equal(model.generate(ids(3, 20), **given, **static), expected)
    assert graphs.frame_count == steps_traced


@pytest.mark.slow
@pytest.mark.parametrize("width", [4, 8])
def test_steps_with_a_static_cache_that_drops_keys(width: int) -> None:
    """Of a model with a window of 8: it keeps what the pattern sees, from the first step on or when it is full."""
    torch.compiler.reset()
    hf.register(f"attnspec:near-{width}", "window", width=width)
    model = decoder("Mistral")
    eager = model.forward
    graphs = CompileCounterWithBackend("aot_eager")
    steps = torch.compile(eager, fullgraph=True, backend=graphs)

    def forward(input_ids: Tensor, **more: Any) -> Any:
        return (steps if input_ids.shape[1] == 1 else eager)(input_ids=input_ids, **more)

    given = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    static = {"cache_implementation": "static", "disable_compile": True}
    for tokens, mask in ((ids(3, 20), LEFT), (ids(1, 3), LEFT[:1, :3])):
        expected = recomputed(model, attnspec.read("window", params={"width": width}), tokens, mask, 12)
        model.set_attn_implementation(f"attnspec:near-{width}")
        model.forward = forward
        assert torch.equal(model.generate(tokens, attention_mask=mask, **given, **static), expected)
        model.forward = eager
    assert 1 <= graphs.frame_count <= 6


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["sinks", "causal", "window"])
def test_a_static_cache_that_drops_what_a_pattern_sees(pattern: str) -> None:
    torch.compiler.reset()
    hf.register(f"attnspec:far-{pattern}", pattern, **({"width": 9} if pattern == "window" else {}))
    model = decoder("Mistral")
    model.set_attn_implementation(f"attnspec:far-{pattern}")
    kept = transformers.StaticCache(model.config, max_cache_len=40)
    with torch.no_grad():
        model(ids(1, 4), past_key_values=kept)
        with pytest.raises(Exception, match="the cache of MistralAttention drops keys that the pattern sees"):
            torch.compile(model, fullgraph=True, backend="eager")(ids(1, 1), past_key_values=kept)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["attnspec", "attnspec:few-sinks"])
def test_a_bounded_cache(pattern: str) -> None:
    """It stands between graphs, and in none."""
    hf.register("attnspec:few-sinks", "sinks", start=2, recent=6)
    model = ours("Llama")
    model.set_attn_implementation(pattern)
    for fullgraph in (False, True):
        torch.compiler.reset()
        compiled, kept = torch.compile(model.forward, backend="eager", fullgraph=fullgraph), hf.cache(model)
        with torch.no_grad():
            whole = model(ids(1, 20), use_cache=False).logits
            model(ids(1, 20)[:, :16], past_key_values=kept)
            if fullgraph:
                with pytest.raises(Exception, match="a cache that drops keys is no part of a graph"):
                    compiled(ids(1, 20)[:, 16:17], **{CACHE: kept})
            else:
                steps = [compiled(ids(1, 20)[:, i : i + 1], **{CACHE: kept}).logits for i in range(16, 20)]
                torch.testing.assert_close(torch.cat(steps, 1), whole[:, 16:], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_padding_between_tokens() -> None:
    """Nobody can look at it while a graph runs, and it is not let pass."""
    torch.compiler.reset()
    model, holes = ours("Llama"), torch.ones_like(LEFT)
    holes[0, 7] = 0
    whole = torch.compile(model, backend="aot_eager")
    with torch.no_grad():
        whole(ids(3, 20), attention_mask=LEFT)
        with pytest.raises(RuntimeError, match=r"padding lies between real tokens.* call the model without torch.comp"):
            whole(ids(3, 20), attention_mask=holes)
