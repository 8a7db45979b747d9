"""Parts of calls, merged and added, against the whole call: every pattern, cut anywhere."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.oracle import tensors
from tests.support.parts import Cuts, agree_in_parts, cuts
from tests.support.pass_strategies import by_way, choosing, laid_cases
from tests.support.patterns import MIXTURES, PATTERNS
from tests.support.strategies import Case, cases
from tests.support.targets import compiled, threads
from tests.targets.test_generated import DIMS, DTYPES, GROUPS, examples

CUTS = Cuts((0.13, 0.14, 0.6), (0.0, 0.21, 0.22, 0.7), (0.5,), (0.4,))
"""Inside tiles and in one row of them; one part of the keys is empty, one part of each side nearly so."""


@pytest.mark.slow
def test_a_union() -> None:
    """Global rows and columns: parts that see a few keys, and parts that see none."""
    attend = compiled(PATTERNS["both"], "cpp")
    agree_in_parts(attend, *tensors(230, 230, 4, 2, 2), CUTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("count", [1, 3])
def test_patterns(name: str, count: int) -> None:
    attend = compiled(PATTERNS[name], "cpp")
    with threads(count):
        for n, n_q in ((230, 230), (190, 61), (70, 150)):
            agree_in_parts(attend, *tensors(n, n_q, 4, 2, 2), CUTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures(name: str) -> None:
    attend = compiled(MIXTURES[name], "cpp")
    agree_in_parts(attend, *tensors(150, 150, 4, 2, 2), CUTS)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    attend = compiled(PATTERNS["both"], "cpp")
    agree_in_parts(attend, *tensors(230, 230, 4, 2, dim=33, dtype=dtype), CUTS)


@pytest.mark.slow
@examples(6)
@given(cases(), cuts(), DIMS, DTYPES, GROUPS, st.integers(1, 3))
def test_specs(case: Case, at: Cuts, dims: tuple[int, int], dtype: torch.dtype, kv_heads: int, batch: int) -> None:
    attend = compiled(case.text, "cpp", params=case.params)
    for n, n_q in ((case.n, case.n_q), (case.n * 7 + 3, case.n_q * 6 + 1)):
        agree_in_parts(attend, *tensors(n, n_q, 4, kv_heads, batch, *dims, dtype=dtype, seed=n), at)


@pytest.mark.slow
@examples(6)
@given(cases(inputs=True), cuts(), st.sampled_from([1, 2]))
def test_inputs(case: Case, at: Cuts, kv_heads: int) -> None:
    if case.heads % kv_heads:
        return
    attend = compiled(case.text, "cpp", params=case.params)
    q, k, v = tensors(case.n, case.n_q, case.heads, kv_heads, case.batch, seed=case.n)
    inputs = {name: torch.from_numpy(array) for name, array in case.inputs.items()}
    agree_in_parts(attend, q, k, v, at, inputs)


@pytest.mark.slow
@examples(6)
@given(laid_cases(), st.integers(0, 12), st.booleans(), GROUPS, cuts())
def test_layouts(case: Case, number: int, detached: bool, kv_heads: int, at: Cuts) -> None:
    """Any way of any spec: residues, combs, grids and gathered columns, in parts."""
    text = case.text.replace("mix {", "mix weights detached {") if detached else case.text
    attend = compiled(by_way(text, number), "cpp")
    with choosing(number):
        for count, n, n_q in ((1, case.n, case.n_q), (3, case.n * 5 + 3, case.n_q * 5 + 1)):
            with threads(count):
                agree_in_parts(attend, *tensors(n, n_q, 4, kv_heads, seed=n), at)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(7))
def test_fewer_keys_than_residues(first: int) -> None:
    """Of so few keys the first and the last residue may have none."""
    attend = compiled("attention a { attend (q - k) % 7 == 0  within causal }", "cpp")
    with threads(3):
        agree_in_parts(attend, *tensors(73, 73, 4, 1), Cuts(rows=(), keys=((63 + first) / 73, (66 + first) / 73)))
