"""Kernels of generated specs, each compiled for itself, against dense attention in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.branch_strategies import branch_cases
from tests.support.oracle import agree, tensors
from tests.support.pass_strategies import by_way, choosing, laid_cases
from tests.support.strategies import Case, cases
from tests.support.targets import compiled, threads


def examples(least: int) -> settings:
    """So many examples, and more under the deep profile: each compiles two kernels, or takes seconds to interpret."""
    return settings(max_examples=max(least, settings().max_examples // 20))


GROUPS = st.sampled_from([1, 2, 4])
DIMS = st.sampled_from([(8, 8), (16, 24), (17, 5), (64, 64), (80, 80)])
DTYPES = st.sampled_from([torch.float32, torch.float32, torch.bfloat16, torch.float16])


@examples(6)
@given(cases(), DIMS, DTYPES, GROUPS, st.integers(1, 3))
def test_specs(case: Case, dims: tuple[int, int], dtype: torch.dtype, kv_heads: int, batch: int) -> None:
    """At the case's own sizes and at larger ones."""
    attend = compiled(case.text, "cpp", params=case.params)
    for n, n_q in ((case.n, case.n_q), (case.n * 7 + 3, case.n_q * 6 + 1)):
        agree(attend, *tensors(n, n_q, 4, kv_heads, batch, *dims, dtype=dtype, seed=n))


@examples(3)
@given(cases(), st.sampled_from([(16, 16), (17, 5), (80, 24)]), GROUPS, st.integers(1, 2))
def test_specs_in_triton(case: Case, dims: tuple[int, int], kv_heads: int, batch: int) -> None:
    attend = compiled(case.text, "triton", params=case.params)
    for n, n_q in ((case.n, case.n_q), (case.n * 3 + 3, case.n_q * 2 + 1)):
        agree(attend, *tensors(n, n_q, 4, kv_heads, batch, *dims, seed=n))


def check_inputs(target: str, case: Case, kv_heads: int) -> None:
    attend = compiled(case.text, target, params=case.params)
    if case.heads % kv_heads:
        return
    q, k, v = tensors(case.n, case.n_q, case.heads, kv_heads, case.batch, seed=case.n)
    agree(attend, q, k, v, inputs={name: torch.from_numpy(array) for name, array in case.inputs.items()})


def check_branches(target: str, case: Case, kv_heads: int, dtype: torch.dtype) -> None:
    attend = compiled(case.text, target)
    given = tensors(case.n, case.n_q, case.heads, kv_heads, case.batch, dim=16, dim_v=17, dtype=dtype, seed=case.n)
    inputs = {name: torch.from_numpy(array).requires_grad_() for name, array in case.inputs.items()}
    agree(attend, *given, inputs=inputs)


@pytest.mark.slow
@examples(8)
@given(branch_cases(), GROUPS, DTYPES)
def test_branches_with_lines_of_their_own(case: Case, kv_heads: int, dtype: torch.dtype) -> None:
    check_branches("cpp", case, kv_heads, dtype)


@pytest.mark.slow
@examples(3)
@given(branch_cases(), GROUPS)
def test_branches_with_lines_of_their_own_in_triton(case: Case, kv_heads: int) -> None:
    check_branches("triton", case, kv_heads, torch.float32)


@examples(8)
@given(cases(inputs=True), st.sampled_from([1, 2]))
def test_inputs(case: Case, kv_heads: int) -> None:
    """The arrays are those of the case."""
    check_inputs("cpp", case, kv_heads)


@examples(4)
@given(cases(inputs=True), st.sampled_from([1, 2]))
def test_inputs_in_triton(case: Case, kv_heads: int) -> None:
    check_inputs("triton", case, kv_heads)


def check_layouts(target: str, case: Case, number: int, detached: bool, kv_heads: int, grow: int) -> None:
    """Any way of any spec, mixtures included."""
    text = case.text.replace("mix {", "mix weights detached {") if detached else case.text
    attend = compiled(by_way(text, number), target)
    with choosing(number):
        for count, n, n_q in ((1, case.n, case.n_q), (3, case.n * grow + 3, case.n_q * grow + 1)):
            with threads(count):
                agree(attend, *tensors(n, n_q, 4, kv_heads, seed=n))


@pytest.mark.slow
@examples(3)
@given(laid_cases(), st.integers(0, 12), st.booleans(), GROUPS)
def test_layouts(case: Case, number: int, detached: bool, kv_heads: int) -> None:
    check_layouts("cpp", case, number, detached, kv_heads, 5)


@pytest.mark.slow
@examples(4)
@given(laid_cases(), st.integers(0, 12), st.booleans(), GROUPS)
def test_layouts_in_triton(case: Case, number: int, detached: bool, kv_heads: int) -> None:
    check_layouts("triton", case, number, detached, kv_heads, 2)
