"""What a recall reads before it is predicted is known, and said."""

from __future__ import annotations

import pytest
import torch

from tests.support.recurrent import WIDTH, Small, tokens, wrapped


@pytest.mark.parametrize("part", ["1 / 2", "1"])
@pytest.mark.parametrize("ragged", ["", " ragged first"])
def test_tokens_whose_prediction_depends_on_them_or_later_ones_are_foreseen(part: str, ragged: str) -> None:
    """By gradients: of the logits that are to predict a token, to all vectors from that token on. Segments of 6."""
    lines = " ".join(
        f"{a} -> {b}: true" for a, b in [("token", "recalled"), ("written", "recalled"), ("written", "token")]
    )
    spec = f"""attention a {{ axis recalled[1] axis token[n] axis written[1] recalled -> recalled: true {lines}
        token -> token: causal written -> written: true recur token by 6{ragged} carry written -> memory last 3
        recall recalled, written from memory by summary(part = {part}, dim = 4) }}"""
    model = wrapped(Small(), spec, remat=False)
    vectors = torch.randn(1, 22, WIDTH, dtype=torch.float64, requires_grad=True)
    logits = model(inputs_embeds=vectors, logits=True).logits
    found = [False]
    for row in range(21):
        (gradient,) = torch.autograd.grad(logits[0, row].sin().sum(), vectors, retain_graph=True)
        found.append(bool(gradient[0, row + 1 :].any()))
    foreseen = model.foreseen(vectors).tolist()
    second, third = (4, 10) if ragged else (6, 12)
    assert not any(foreseen[: second + 1])
    assert foreseen[third:] == found[third:]
    assert any(found)
    assert not any(found[second:third])  # the store has one vector, the answer whatever is asked


@pytest.mark.slow
def test_a_stream_has_a_store_from_its_first_token_on() -> None:
    model = wrapped(Small(), "hmt", segment=8, before=3, store=2, dim=5)
    ids = tokens(2, 21)
    state = model(ids[:, :8]).state
    assert model.foreseen(ids[:, 8:], state).tolist() == model.foreseen(ids)[8:].tolist()
    assert not wrapped(Small(), "rmt", slots=2, segment=8).foreseen(ids).any()
