"""Generated patterns, exported to FlexAttention: the pairs of the definition, and blocks that PyTorch finds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from attnspec.codegen.tiles import Tile
from attnspec.errors.diagnostic import SpecError
from tests.support.exported import of_case, same_blocks
from tests.support.strategies import Case, cases


@pytest.mark.slow
@settings(max_examples=max(300, settings().max_examples))
@given(cases(inputs=True), st.sampled_from([Tile(4, 4), Tile(8, 16), Tile(16, 4)]))
def test_blocks_and_pairs(case: Case, tile: Tile) -> None:
    assume(case.n_q <= case.n)
    try:
        call = of_case(case, tile)
    except SpecError:
        assume(False)  # not affine, or too irregular
    note = f"{case.text}\n{call.text}"
    assert torch.equal(call.mask, call.oracle), note
    # Which blocks hold no pair is not always known, of the contents of inputs or for irregular patterns.
    assert same_blocks(call, strict=False), note
