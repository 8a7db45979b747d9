"""Positions: RoPE, YaRN, ALiBi, T5's bias, xPos and Transformer-XL's, against published layers or formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import attnspec
from tests.published.comparing import additive, alike, learned, merge, random, split
from tests.published.llama import CAUSAL, DIM, N, agrees, config

pytest.importorskip("transformers")
from transformers import BloomConfig, MptConfig, T5Config
from transformers.models.bloom.modeling_bloom import BloomAttention, build_alibi_tensor
from transformers.models.mpt.modeling_mpt import MptAttention, build_mpt_alibi_tensor
from transformers.models.t5.modeling_t5 import T5Attention

from tests.support.marks import slow

ROPES = {
    "rope": (config(rope_type="default", rope_theta=500.0), {"theta": 500}),
    "yarn": (
        config(rope_type="yarn", rope_theta=10000.0, factor=16.0, original_max_position_embeddings=64),
        {"original": 64},
    ),
}


@pytest.mark.parametrize("name", ROPES)
def test_llama(name: str) -> None:
    made, params = ROPES[name]
    agrees(attnspec.compile(name, params=params), made)


@pytest.mark.parametrize("heads", [4, 6])
def test_bloom(heads: int) -> None:
    attend = attnspec.compile("alibi")
    module = BloomAttention(BloomConfig(hidden_size=heads * DIM, n_head=heads, hidden_dropout=0.0), 0).eval()
    weights = learned(module)
    x = random(2, N, heads * DIM)
    alibi = build_alibi_tensor(torch.ones(2, N), heads, torch.float32)

    def mine() -> Tensor:
        q, k, v = module._reshape(module.query_key_value(x))
        return module.dense(merge(attend(q, k, v)))  # type: ignore[no-any-return]

    alike(mine, lambda: module(x, torch.zeros_like(x), alibi, additive(CAUSAL))[0], {"x": x} | weights)


@pytest.mark.parametrize("heads", [4, 6])
def test_mpt(heads: int) -> None:
    attend = attnspec.compile("alibi_window", width=40)
    module = MptAttention(MptConfig(d_model=heads * DIM, n_heads=heads), 0).eval()
    weights = learned(module)
    x = random(2, N, heads * DIM)
    mask = CAUSAL & ~torch.ones(N, N, dtype=torch.bool).tril(-40)

    def mine() -> Tensor:
        q, k, v = (split(part, heads) for part in module.Wqkv(x).chunk(3, dim=-1))
        return module.out_proj(merge(attend(q, k, v)))  # type: ignore[no-any-return]

    alike(mine, lambda: module(x, build_mpt_alibi_tensor(heads, N), attention_mask=~mask)[0], {"x": x} | weights)


@pytest.mark.parametrize("both_sides", [slow(True), False])
def test_t5(both_sides: bool) -> None:
    attend = attnspec.compile("t5_bias", buckets=16, furthest=60, both_sides=both_sides)
    config = T5Config(
        d_model=4 * DIM,
        d_kv=DIM,
        num_heads=4,
        dropout_rate=0.0,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=60,
        is_decoder=not both_sides,
        attn_implementation="eager",
    )
    module = T5Attention(config, has_relative_attention_bias=True, layer_idx=0).eval()
    weights = learned(module)
    with torch.no_grad():
        module.q.weight.div_(math.sqrt(DIM))  # there is no other scale
    x = random(2, N, 4 * DIM)

    def mine() -> Tensor:
        q, k, v = (split(project(x), 4) for project in (module.q, module.k, module.v))
        return module.o(merge(attend(q, k, v, bias=module.relative_attention_bias.weight.T)))  # type: ignore[no-any-return]

    mask = None if both_sides else additive(CAUSAL)
    alike(mine, lambda: module(x, mask=mask)[0], {"x": x} | weights)


def test_xpos() -> None:
    """The formula: q and k as complex numbers, their product turned and shrunk by the distance."""
    block, decay = 32, 64
    attend = attnspec.compile("xpos", block=block, decay=decay)
    q, k, v = (random(2, 2, N, DIM, seed=i) for i in range(3))

    def formula() -> Tensor:
        numbers = (torch.view_as_complex(x.double().unflatten(-1, (-1, 2))) for x in (q, k))
        a, b = numbers
        index = torch.arange(0, DIM, 2, dtype=torch.float64)
        theta, zeta = 10000.0 ** (-index / DIM), (index / DIM + 0.4) / 1.4
        distance = (torch.arange(N)[:, None] - torch.arange(N)).double()[..., None]
        near = torch.arange(N)[:, None] // block - torch.arange(N) // block <= 1
        turn = torch.polar(zeta ** (distance / decay), distance * theta)
        scores = torch.einsum("bhqd,bhkd,qkd->bhqk", a, b.conj(), turn).real / math.sqrt(DIM)
        return scores.masked_fill(~(CAUSAL & near), -math.inf).softmax(-1) @ v.double()

    alike(lambda: attend(q, k, v), formula, {"q": q, "k": k, "v": v})


def test_transformer_xl() -> None:
    """As the published code: the term of distances, computed from far to near, shifted row by row."""
    rows, heads = 60, 2
    attend = attnspec.compile("transformer_xl_positions")
    q, u, w = random(2, heads, rows, DIM), random(heads, 1, DIM, seed=1), random(heads, 1, DIM, seed=2)
    k, v, r = random(2, heads, N, DIM, seed=3), random(2, heads, N, DIM, seed=4), random(heads, N, DIM, seed=5)

    def mine() -> Tensor:
        by_distance = (q + w) @ r.transpose(-1, -2) / math.sqrt(DIM)  # r holds distances 0, 1, 2, ...
        return attend(q + u, k, v, position=by_distance)

    def rel_shift(x: Tensor) -> Tensor:
        padded = torch.cat([x.new_zeros((*x.shape[:-1], 1)), x], dim=-1)
        return padded.view(*x.shape[:2], x.shape[3] + 1, x.shape[2])[:, :, 1:].view(x.shape)

    def theirs() -> Tensor:
        content = (q + u) @ k.transpose(-1, -2)
        position = rel_shift((q + w) @ r.flip(1).transpose(-1, -2))
        scores = (content + position) / math.sqrt(DIM)
        return scores.masked_fill(~CAUSAL[-rows:], -math.inf).softmax(-1) @ v

    alike(mine, theirs, {"q": q, "k": k, "v": v, "r": r, "u": u, "v bias": w})
