"""Generated patterns with generated lines about weights: kernels against the dense formula, and cut in pieces."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import attnspec
from attnspec.errors.diagnostic import SpecError
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.states.allowed import require_state
from tests.support.linear import as_dense
from tests.support.linear_strategies import DIM, cut_cases, linear_cases
from tests.support.oracle import tensors
from tests.support.states import near, pieces
from tests.support.strategies import Case

GROUPS = st.sampled_from([1, 2, 4])
DTYPES = st.sampled_from([torch.float32, torch.float32, torch.bfloat16, torch.float16])


def examples(least: int) -> settings:
    """So many examples, and more under the deep profile: each compiles up to six kernels."""
    return settings(max_examples=max(least, settings().max_examples // 20))


def inputs_of(case: Case) -> dict[str, torch.Tensor]:
    """Those of a case as tensors."""
    return {name: torch.from_numpy(array) for name, array in case.inputs.items()}


@pytest.mark.slow
@examples(12)
@given(linear_cases(), GROUPS, DTYPES)
def test_patterns_and_weights(case: Case, kv_heads: int, dtype: torch.dtype) -> None:
    """Output and all gradients."""
    assume(case.heads % kv_heads == 0)
    try:
        attnspec.compile(case.text, target="cpp")
    except SpecError as error:
        assume("E409" not in str(error.diagnostics))
        raise
    as_dense(case.text, *tensors(case.n, case.n_q, case.heads, kv_heads, case.batch, DIM, 9, dtype), inputs_of(case))


@pytest.mark.slow
@given(cut_cases(), GROUPS, st.data())
def test_sequences_in_pieces(case: Case, kv_heads: int, data: Any) -> None:
    """Where a pattern has a state: the same outputs, last state and gradients."""
    attend = attnspec.compile(case.text, target="dense")
    try:
        going = require_state(attend.program, case.heads, kv_heads, case.batch)
    except (CallError, SpecError):
        assume(False)
    places = range(going.cut, case.n, going.cut)
    assume(len(places) > 0)
    cuts = sorted(data.draw(st.sets(st.sampled_from(places), min_size=1, max_size=4)))
    end = case.n // going.cut * going.cut
    vectors = [
        t.detach()[:, :, :end].double().requires_grad_()
        for t in tensors(case.n, case.n, case.heads, kv_heads, case.batch, DIM, 9)
    ]
    given = {
        name: t.clamp(max=end) if name == "cu" else t[:, :, :end].double().requires_grad_()
        for name, t in inputs_of(case).items()
    }
    whole = attend(*vectors, inputs=given, return_state=True)
    near("plain", attend(*vectors, inputs=given), whole[0], 1e-11)
    found = pieces(attend, vectors, given, [c for c in cuts if c < end])
    up, sources = (
        [torch.randn(x.shape).double() for x in whole],
        [*vectors, *(t for name, t in given.items() if name != "cu")],
    )
    for name, x, y in zip(("out", "state"), found, whole, strict=True):
        near(name, x, y, 1e-10)
    got, want = (torch.autograd.grad(of, sources, up, materialize_grads=True) for of in (found, whole))
    for number, (x, y) in enumerate(zip(got, want, strict=True)):
        near(f"gradient {number}", x, y, 1e-10)
