"""The mask functions of transformers, imported as FlexAttention would be given them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask
from transformers import masking_utils as m

import attnspec
from attnspec.analysis.compare import compare
from attnspec.flex import flex_attention, spec_of
from attnspec.relation.lower import lower
from tests.support.flex_dense import dense, mask_of

N = 60
DOC = torch.repeat_interleave(torch.arange(4), torch.tensor([7, 30, 1, 22])).expand(2, N).contiguous()
PLACES = torch.cat([torch.arange(x) for x in (7, 30, 1, 22)]).expand(2, N).contiguous()
IMAGES = torch.full((2, N), -1)
IMAGES[0, 5:20], IMAGES[0, 30:44], IMAGES[1, 2:9] = 0, 1, 0
START = torch.tensor([0, 11])
REAL = torch.arange(N) >= START[:, None]

CASES: dict[str, tuple[Callable[..., Any], str]] = {
    "causal": (m.causal_mask_function, "attend causal"),
    "bidirectional": (m.bidirectional_mask_function, "attend true"),
    "sliding": (m.sliding_window_causal_mask_function(9), "attend window(9)"),
    "sliding overlay": (m.sliding_window_overlay(9), "attend q - k < 9"),
    "sliding, both ways": (m.sliding_window_bidirectional_mask_function(9), "attend |q - k| <= 9"),
    "sliding overlay, both ways": (m.sliding_window_bidirectional_overlay(9), "attend |q - k| <= 9"),
    "chunked": (m.chunked_causal_mask_function(16, START), ""),
    "chunked overlay": (m.chunked_overlay(16, torch.zeros(2, dtype=torch.long)), ""),
    "images": (m.or_masks(m.blockwise_overlay(IMAGES), m.causal_mask_function), ""),
    "padding": (m.and_masks(m.padding_mask_function(REAL), m.causal_mask_function), ""),
    "packed": (m.and_masks(m.packed_sequence_mask_function(DOC), m.causal_mask_function), ""),
    "packed, sliding": (
        m.and_masks(
            m.remap_positions_for_packed_sequence(m.sliding_window_causal_mask_function(5), PLACES),
            m.packed_sequence_mask_function(DOC),
        ),
        "",
    ),
    "offsets": (
        m.add_offsets_to_mask_function(m.sliding_window_causal_mask_function(9), 20, 3),
        "attend window(9) at (q + 20, k + 3)",
    ),
    "offsets, chunked": (m.add_offsets_to_mask_function(m.chunked_causal_mask_function(16, START), 8, 8), ""),
}


@pytest.mark.parametrize("name", CASES)
def test_pairs(name: str) -> None:
    function, by_hand = CASES[name]
    found = spec_of(function, 2, 2, N, N)
    inputs = {name: t.numpy() for name, t in found.inputs.items()}
    mask = attnspec.read(found.text).mask(N, heads=2, batch=2, inputs=inputs)
    assert torch.equal(torch.from_numpy(mask), mask_of(function, 2, 2, N, N))
    if by_hand:
        wanted = attnspec.read(f"attention a {{ align start {by_hand} }}")
        assert compare(*(lower(spec) for spec in (attnspec.read(found.text), wanted))).equal


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_runs_in_our_kernels(name: str) -> None:
    function, _ = CASES[name]
    q, k, v = (torch.randn(2, 2, N, 16, generator=torch.Generator().manual_seed(i)) for i in range(3))
    found = flex_attention(q, k, v, block_mask=create_block_mask(function, 2, 2, N, N, device="cpu"))
    wanted, _ = dense(q, k, v, mask_of(function, 2, 2, N, N), None)
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_each_is_traced_in_less_than_a_second() -> None:
    for function, _ in CASES.values():
        before = time.process_time()
        spec_of(function, 2, 2, N, N)
        assert time.process_time() - before < 1
