"""Llama-3's and LongRoPE's tables, multimodal RoPE and RoPE of images, against published layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import attnspec
from tests.published.comparing import alike, close, random
from tests.published.llama import CAUSAL, DIM, N, agrees, config

pytest.importorskip("transformers")
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLRotaryEmbedding, apply_rotary_pos_emb

SHORT = [1.0, 1.1, 1.25, 1.5, 2.0, 2.25, 2.5, 3.0]
LONG = [1.0, 1.5, 2.5, 4.0, 8.0, 12.5, 16.0, 20.0]


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
LONGROPE = {"rope_theta": 10000.0, "short_factor": SHORT, "long_factor": LONG, "longest": 2048}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], list[str]]] = {
    "llama3": ("llama3", {"rope_theta": 500.0, **LLAMA3}, {"theta": 500, "original": 64}, []),
    "longrope, short": (
        "longrope",
        {**LONGROPE, "original_max_position_embeddings": 256, "factor": 8.0},
        {"original": 256, "factor": 8, "dims": DIM},
        ["short", "long"],
    ),
    "longrope, long": (
        "longrope",
        {**LONGROPE, "original_max_position_embeddings": 64, "factor": 32.0},
        {"original": 64, "factor": 32, "dims": DIM},
        ["short", "long"],
    ),
}
INPUTS = {"short": torch.tensor(SHORT), "long": torch.tensor(LONG)}


@pytest.mark.parametrize("case", CASES)
def test_tables_and_attention_of_llama(case: str) -> None:
    name, parameters, params, reads = CASES[case]
    made = config(rope_type=name, **parameters)
    attend, inputs = attnspec.compile(name, params=params), {key: INPUTS[key] for key in reads}
    inv_freq, factor = ROPE_INIT_FUNCTIONS[name](made, torch.device("cpu"), seq_len=N)
    (mine,) = attend.frequencies(DIM, n=N, inputs=inputs)
    torch.testing.assert_close(mine.inv_freq.flatten().float(), inv_freq, rtol=2e-6, atol=0)
    assert float(mine.attention_factor) == pytest.approx(factor)
    agrees(attend, made, inputs)


def test_rotated_queries_and_keys_are_those_of_qwen2_vl() -> None:
    sections = [2, 3, 3]
    made = Qwen2VLTextConfig(
        hidden_size=4 * DIM,
        num_attention_heads=4,
        num_key_value_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0, "mrope_section": sections},
    )
    attend = attnspec.compile("mrope", theta=1000, time=sections[0], height=sections[1])
    q, k, v = random(2, 4, N, DIM), random(2, 2, N, DIM, seed=1), random(2, 2, N, DIM, seed=2)
    position = torch.randint(0, 60, (3, 2, N), generator=torch.Generator().manual_seed(3))
    cos, sin = Qwen2VLRotaryEmbedding(made)(q, position)

    def theirs() -> tuple[Tensor, Tensor]:
        return apply_rotary_pos_emb(q, k, cos, sin)  # type: ignore[no-any-return]

    for name, mine, want in zip("qk", attend.rotated(q, k, position=position), theirs(), strict=True):
        close(name, mine, want)

    def published() -> Tensor:
        turned_q, turned_k = theirs()
        keys, values = (x.repeat_interleave(2, dim=1) for x in (turned_k, v))
        scores = turned_q @ keys.transpose(-1, -2) / DIM**0.5
        return scores.masked_fill(~CAUSAL, float("-inf")).softmax(-1) @ values

    alike(lambda: attend(q, k, v, position=position), published, {"q": q, "k": k, "v": v})


@pytest.mark.parametrize("freqs_for", ["lang", "pixel"])
def test_axial_frequencies_of_rotary_embedding_torch(freqs_for: str) -> None:
    """Of images, by row and column: for "pixel" positions run from -1 to 1, and frequencies are evenly spread."""
    published = pytest.importorskip("rotary_embedding_torch")
    height, width = 10, 15
    embed = published.RotaryEmbedding(dim=DIM // 2, freqs_for=freqs_for, theta=100, max_freq=30)
    if freqs_for == "lang":
        attend = attnspec.compile("rope_2d", width=width, dims=DIM, theta=100)
        rows, columns = torch.arange(height).float(), torch.arange(width).float()
        angles = torch.cat(
            (
                embed(rows)[:, None].expand(height, width, -1),
                embed(columns)[None].expand(height, width, -1),
            ),
            dim=-1,
        )
    else:
        pi = "3.141592653589793"
        attend = attnspec.compile(
            f"""attention pixels {{
                let spread(i) = {pi} * (1 + i * (30 / 2 - 1) / ({DIM // 4} - 1))
                let place(i, size) = 2 * i / (size - 1) - 1
                rotate rope(frequencies = spread(pair), dims = {DIM // 2}, layout = pairs)
                    at (place(q // {width}, {height}), place(k // {width}, {height}))
                rotate rope(frequencies = spread(pair), start = {DIM // 2}, layout = pairs)
                    at (place(q % {width}, {width}), place(k % {width}, {width}))
            }}"""
        )
        angles = embed.get_axial_freqs(height, width)
    q, k, v = (random(2, 2, height * width, DIM, seed=i) for i in range(3))

    def theirs(x: Tensor) -> Tensor:
        return published.apply_rotary_emb(angles.flatten(0, 1), x)  # type: ignore[no-any-return]

    for name, mine, x in zip("qk", attend.rotated(q, k), (q, k), strict=True):
        close(name, mine, theirs(x))
    alike(
        lambda: attend(q, k, v),
        lambda: torch.nn.functional.scaled_dot_product_attention(theirs(q), theirs(k), v),
        {"q": q, "k": k, "v": v},
    )
