"""Strided parts against dense attention in float64: rows and keys of every few positions, of all residues."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import attnspec
from tests.support.marks import slow
from tests.support.oracle import tensors
from tests.support.pass_strategies import laid_cases
from tests.support.shipped import SMALL, STRIDABLE, call_of
from tests.support.strategies import Case, cases
from tests.support.strides import agree_in_strides
from tests.support.targets import compiled
from tests.targets.test_generated import examples

EVERYTHING = """
attention everything {
    input doc: int[batch, n] sorted
    input bias: float[n]
    input logit: float[heads]
    attend k <= q and (q - k) % 6 == 0 and doc[q] == doc[k]
    attend k >= n - 4
    rotate rope() at (q - first(doc, q), k - first(doc, k))
    score s + bias[k] - 0.01 * (q - k)
    sink logit[h]
}
"""


@pytest.mark.parametrize("text", [EVERYTHING.replace("    attend k >= n - 4\n", ""), slow(EVERYTHING)])
def test_everything_at_once(text: str) -> None:
    """Documents and biases by global position, rotations, a sink, n; heads in groups, two entries."""
    q, k, v = tensors(61, 61, 4, 2, 2)
    doc = torch.tensor([[0] * 20 + [1] * 41, [3] * 50 + [7] * 11])
    inputs = {"doc": doc, "bias": torch.randn(61, requires_grad=True), "logit": torch.randn(4)}
    agree_in_strides(compiled(text, "cpp"), q, k, v, (3, 3), inputs)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    agree_in_strides(compiled("dilated", "cpp", params={"width": 20, "rate": 6}), *tensors(150, dtype=dtype), (3, 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in STRIDABLE if not attnspec.read(name).composed])
def test_shipped_specs(name: str) -> None:
    attend = attnspec.compile(name, params=SMALL.get(name, {}))
    if attend.spec.detached:
        attend = attend.branches[1]
    given, inputs = call_of(attend, 70, 32, torch.float32)
    for steps in ((3, 3), (1, 5)):
        agree_in_strides(attend, *given, steps, inputs)


@pytest.mark.slow
@examples(6)
@given(cases() | laid_cases(), st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 2, 4]))
def test_specs(case: Case, step: int, other: int, kv_heads: int) -> None:
    attend = compiled(case.text, "cpp", params=case.params)
    assume(attend.spec.offset(case.n, case.n_q) >= 0)  # over ranks no query stands before the first key
    agree_in_strides(attend, *tensors(case.n, case.n_q, 4, kv_heads), (step, other))
    agree_in_strides(attend, *tensors(case.n * 3 + 1, case.n_q * 3 + 1, 4, kv_heads), (step, step))


@pytest.mark.slow
@examples(6)
@given(cases(inputs=True), st.integers(1, 5), st.sampled_from([1, 2]))
def test_inputs(case: Case, step: int, kv_heads: int) -> None:
    attend = compiled(case.text, "cpp", params=case.params)
    assume(case.heads % kv_heads == 0 and attend.spec.offset(case.n, case.n_q) >= 0)
    inputs = {name: torch.from_numpy(array) for name, array in case.inputs.items()}
    agree_in_strides(attend, *tensors(case.n, case.n_q, case.heads, kv_heads, case.batch), (step, step), inputs)


@pytest.mark.slow
def test_steps_are_mixed_and_programs_shared() -> None:
    """One key of every four beside all rows; a window is one program for all residues that are equally far apart."""
    attend = compiled("attention a { attend window(30) }", "cpp")
    agree_in_strides(attend, *tensors(130), (1, 4))
    agree_in_strides(attend, *tensors(130), (4, 1))


@pytest.mark.slow
def test_the_interpreter_of_triton() -> None:
    agree_in_strides(compiled("dilated", "triton", params={"width": 20, "rate": 6}), *tensors(70), (3, 3))
