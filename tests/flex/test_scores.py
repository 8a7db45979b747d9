"""A list of score functions as people write them for FlexAttention: results, and gradients of their tables."""

from __future__ import annotations

import time

import pytest
import torch

from attnspec.flex import flex_attention, spec_of
from tests.support.flex_dense import dense, mask_of
from tests.support.flex_masks import lookback
from tests.support.flex_scores import BATCH, HEADS, SCORES, N


@pytest.mark.slow
@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("masked", [False, True])
def test_output_and_gradients_are_those_of_the_function(name: str, masked: bool) -> None:
    from torch.nn.attention.flex_attention import create_block_mask

    case = SCORES[name]
    torch.manual_seed(0)
    given = [torch.randn(BATCH, HEADS, N, 8, requires_grad=True) for _ in range(3)]
    tables = [t.requires_grad_() for t in case.tables()]
    score = case.make(*tables)
    function = lookback(30) if masked else None
    block_mask = function and create_block_mask(function, None, None, N, N, device="cpu")
    mask = function and mask_of(function, BATCH, HEADS, N, N)
    both = flex_attention(*given, score, block_mask), dense(*given, mask, score)[0]
    torch.testing.assert_close(both[0].double(), both[1], atol=1e-5, rtol=1e-5)
    grads = [torch.autograd.grad(out.square().sum(), [*given, *tables]) for out in both]
    for mine, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(mine.double(), wanted.double(), atol=2e-4, rtol=2e-4)


@pytest.mark.slow
def test_each_is_traced_in_less_than_a_second() -> None:
    for case in SCORES.values():
        score, before = case.make(*case.tables()), time.process_time()
        spec_of(None, BATCH, HEADS, N, N, score_mod=score)
        assert time.process_time() - before < 1
