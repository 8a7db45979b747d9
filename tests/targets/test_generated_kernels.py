"""Kernels of generated specs, each compiled for itself, against dense attention in float64."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attnspec
from tests.support.oracle import agree, tensors
from tests.support.strategies import Case, cases

SIZES = st.sampled_from([(8, 8), (16, 24), (17, 5), (64, 64), (80, 80)])
DTYPES = st.sampled_from([torch.float32, torch.float32, torch.bfloat16, torch.float16])


@settings(max_examples=max(12, settings().max_examples // 20))
@given(cases(), SIZES, DTYPES, st.sampled_from([1, 2, 4]), st.integers(1, 3))
def test_generated_specs(case: Case, dims: tuple[int, int], dtype: torch.dtype, kv_heads: int, batch: int) -> None:
    """Each example compiles two kernels and tries them at the case's own sizes and at larger ones."""
    attend = attnspec.compile(case.text, params=case.params)
    heads = 4
    for n, n_q in ((case.n, case.n_q), (case.n * 7 + 3, case.n_q * 6 + 1)):
        q, k, v = tensors(n, n_q, heads, kv_heads, batch, *dims, dtype=dtype, seed=n)
        agree(attend, q, k, v)
