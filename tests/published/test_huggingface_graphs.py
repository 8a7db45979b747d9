"""Models of transformers with their own masks in our kernels: whole graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from tests.published.tiny import ids, ours, trained

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
