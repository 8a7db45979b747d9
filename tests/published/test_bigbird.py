"""BigBird against Hugging Face's block-sparse attention, with its random blocks, and with blocks that overlap."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import attnspec
from tests.published.comparing import alike, learned, random, split

pytest.importorskip("transformers")
from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention, BigBirdModel

from tests.support.marks import slow

HEADS, DIM, BLOCK, ROWS, RANDOMS = 2, 16, 8, 14, 2
N = BLOCK * ROWS


def published() -> tuple[Any, dict[str, Tensor]]:
    config = SimpleNamespace(
        max_position_embeddings=N,
        hidden_size=HEADS * DIM,
        num_attention_heads=HEADS,
        num_random_blocks=RANDOMS,
        block_size=BLOCK,
        use_bias=False,
    )
    module = BigBirdBlockSparseAttention(config, seed=1)
    return module, learned(module)


def run(module: Any, x: Tensor) -> Tensor:
    blocked, band, rows, columns = BigBirdModel.create_masks_for_block_sparse_attn(torch.ones(x.shape[:2]), BLOCK)
    return module(x, band, rows, columns, blocked, blocked)[0]  # type: ignore[no-any-return]


def given(table: Any) -> Tensor:
    """The published table, (heads, rows - 2, randoms), as an input: the first and the last row have none."""
    none = np.full((HEADS, 1, RANDOMS), -1)
    return torch.from_numpy(np.concatenate([none, np.stack(list(table)), none], axis=1).astype(np.int64))


def compare(name: str, module: Any, weights: dict[str, Tensor], rand: Tensor) -> None:
    attend = attnspec.compile(name, block=BLOCK, randoms=RANDOMS)
    x = random(2, N, HEADS * DIM)

    def mine() -> Tensor:
        q, k, v = (split(getattr(module, name)(x), HEADS) for name in ("query", "key", "value"))
        return attend(q, k, v, rand=rand).transpose(1, 2).flatten(2)

    alike(mine, lambda: run(module, x), {"x": x} | weights)


@pytest.mark.parametrize("name", ["bigbird", slow("bigbird_mixture")])
def test_blocks_as_drawn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published planner draws no block that is in the row already: sets and multisets are the same."""
    module, weights = published()
    draw = module._bigbird_block_rand_mask_with_head
    tables = []

    def remember(**sizes: Any) -> Any:
        tables.append(draw(**sizes))
        return tables[-1]

    monkeypatch.setattr(module, "_bigbird_block_rand_mask_with_head", remember)
    run(module.train(), random(2, N, HEADS * DIM))
    assert len(np.unique(np.stack(tables[-1]))) > 2
    compare(name, module, weights, given(tables[-1]))


@pytest.mark.parametrize("table", ["zeros", "any"])
def test_blocks_that_overlap_count_again(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside training the published code draws zeros only: the first block counts 1 + randoms times."""
    module, weights = published()
    shape = (HEADS, ROWS - 2, RANDOMS)
    rand = np.zeros(shape, int) if table == "zeros" else np.random.default_rng(0).integers(0, ROWS, shape)
    if table == "zeros":
        module.eval()
    else:
        monkeypatch.setattr(module, "_bigbird_block_rand_mask_with_head", lambda **sizes: list(rand))
    compare("bigbird_mixture", module, weights, given(rand))
