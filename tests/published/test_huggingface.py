"""Models of transformers run the masks that they have themselves in our kernels: what they give is eager's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import attnspec.transformers as hf
from tests.published.tiny import DECODERS, decoder, ids

hf.register("attnspec")
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in DECODERS if name not in ("Llama", "gpt-oss")]
MODELS = ["Llama", "gpt-oss", *SLOW]
ALL = [pytest.param(name, marks=pytest.mark.slow) for name in DECODERS]
LEFT = torch.ones(3, 20, dtype=torch.long)
LEFT[1, :5] = LEFT[2, :11] = 0


def both(model: Any, *args: Any, **more: Any) -> list[Any]:
    """What a model gives with eager attention, and with ours."""
    found = []
    for name in ("eager", "attnspec"):
        model.set_attn_implementation(name)
        with torch.no_grad():
            found.append(model(*args, **more))
    return found


def differ(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@pytest.mark.parametrize("name", MODELS)
def test_logits(name: str) -> None:
    """Whole sequences; batches with padding on the left, and on the right; where there is no padding."""
    model = decoder(name)
    eager, ours = both(model, ids(3, 20))
    assert differ(eager.logits, ours.logits) < 1e-5
    for mask in (LEFT, LEFT.flip(1)):
        eager, ours = both(model, ids(3, 20), attention_mask=mask)
        assert differ(eager.logits[mask == 1], ours.logits[mask == 1]) < 1e-5


@pytest.mark.parametrize("name", ALL)
def test_padding_between_tokens(name: str) -> None:
    holes = LEFT.clone()
    holes[0, 7:10] = holes[1, 12] = 0
    eager, ours = both(decoder(name), ids(3, 20), attention_mask=holes)
    assert differ(eager.logits[holes == 1], ours.logits[holes == 1]) < 1e-5


def generated(model: Any, **more: Any) -> list[Tensor]:
    found = []
    for name in ("eager", "attnspec"):
        model.set_attn_implementation(name)
        options = {"do_sample": False, "pad_token_id": 0, **more}
        found.append(model.generate(ids(3, 20), attention_mask=LEFT, max_new_tokens=15, **options))
    return found


@pytest.mark.parametrize(
    "name", ["Llama", *(pytest.param(n, marks=pytest.mark.slow) for n in DECODERS if n != "Llama")]
)
def test_tokens_with_a_dynamic_cache(name: str) -> None:
    eager, ours = generated(decoder(name))
    assert torch.equal(eager, ours)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("how", ["static", "beams"])
def test_tokens(name: str, how: str) -> None:
    more = {"static": {"cache_implementation": "static"}, "beams": {"num_beams": 3}}
    eager, ours = generated(decoder(name), **more[how])
    assert torch.equal(eager, ours)


@pytest.mark.parametrize("name", ALL)
def test_gradients_of_packed_documents(name: str) -> None:
    """Positions that begin anew say where documents begin; all parameters have the gradients of eager."""
    model = decoder(name).train()
    positions = torch.cat([torch.arange(n) for n in (7, 1, 19, 13)])[None].expand(2, -1)
    found = []
    for implementation in ("eager", "attnspec"):
        model.set_attn_implementation(implementation)
        model.zero_grad()
        out = model(ids(2, 40), position_ids=positions, labels=ids(2, 40), use_cache=False)
        out.loss.backward()
        found.append([out.logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 10
    for eager, ours in zip(*found, strict=True):
        assert differ(eager, ours) < 1e-5
