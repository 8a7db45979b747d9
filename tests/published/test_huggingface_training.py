"""Models of transformers with their own masks in our kernels: checkpointing and autocast."""

from __future__ import annotations

import pytest
import torch

from tests.published.tiny import ours, trained
from tests.support.marks import slow


@pytest.mark.parametrize("reentrant", [False, slow(True)])
@pytest.mark.parametrize("name", ["Llama", slow("Gemma 2")])
def test_checkpointing(name: str, reentrant: bool) -> None:
    """The same bits."""
    model = ours(name).train()
    expected = trained(model)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert all(torch.equal(*both) for both in zip(trained(model), expected, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Llama", "Gemma 2"])
def test_autocast(name: str) -> None:
    """In bfloat16, as near to float32 as eager attention is."""
    model = ours(name)
    found = {}
    for kind in ("attnspec", "eager"):
        model.set_attn_implementation(kind)
        with torch.autocast("cpu", torch.bfloat16):
            found[kind] = trained(model)
    model.set_attn_implementation("eager")
    exact = trained(model)
    errors = {
        kind: max(float((a - b).norm() / b.norm()) for a, b in zip(all_of, exact, strict=True))
        for kind, all_of in found.items()
    }
    assert errors["attnspec"] <= 1.5 * errors["eager"]
