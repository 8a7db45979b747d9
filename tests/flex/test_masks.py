"""A list of mask functions as people write them for FlexAttention: traced, equal as pairs, proven, and run."""

from __future__ import annotations

import time

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

import attnspec
from attnspec.analysis.compare import compare
from attnspec.flex import flex_attention, spec_of
from attnspec.relation.lower import lower
from tests.support.flex_dense import dense, mask_of
from tests.support.flex_masks import MASKS
from tests.support.flex_tables import TABLES

ALL = {**MASKS, **TABLES}
LONG = ("tiled natten", "morton natten")


@pytest.mark.parametrize("name", ALL)
def test_the_spec_has_the_pairs_of_the_function(name: str) -> None:
    case = ALL[name]
    function = case.make()
    found = spec_of(function, case.batch, case.heads, case.n_q, case.n)
    inputs = {name: t.numpy() for name, t in found.inputs.items()}
    mask = attnspec.read(found.text).mask(case.n, case.n_q, heads=case.heads, batch=case.batch, inputs=inputs)
    assert torch.equal(torch.from_numpy(mask), mask_of(function, case.batch, case.heads, case.n_q, case.n))
    assert mask.any()
    assert mask.all() == (name == "everything")


@pytest.mark.parametrize("name", [pytest.param(x, marks=pytest.mark.slow if x in LONG else ()) for x in MASKS])
def test_without_tables_it_is_equal_to_a_spec_by_hand_for_every_length(name: str) -> None:
    case = MASKS[name]
    found = spec_of(case.make(), case.batch, case.heads, case.n_q, case.n)
    assert not found.inputs
    assert compare(*(lower(attnspec.read(text), heads=case.heads) for text in (found.text, case.spec))).equal


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_it_runs_in_our_kernels(name: str) -> None:
    case = ALL[name]
    torch.manual_seed(0)
    q = torch.randn(case.batch, case.heads, case.n_q, 16)
    k, v = torch.randn(2, case.batch, case.heads, case.n, 16)
    function = case.make()
    block_mask = create_block_mask(function, case.batch, case.heads, case.n_q, case.n, device="cpu")
    mask = mask_of(function, case.batch, case.heads, case.n_q, case.n)
    torch.testing.assert_close(
        flex_attention(q, k, v, block_mask=block_mask).double(), dense(q, k, v, mask, None)[0], atol=1e-5, rtol=1e-5
    )


@pytest.mark.slow
def test_each_is_traced_in_less_than_a_second() -> None:
    for case in ALL.values():
        function, before = case.make(), time.process_time()
        spec_of(function, case.batch, case.heads, case.n_q, case.n)
        assert time.process_time() - before < 1
