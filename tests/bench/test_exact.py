"""What kernels of weights beyond softmax are compared with is the dense formula, a few rows at a time."""

from __future__ import annotations

import pytest
import torch

import attnspec
from attnspec.relation.sizes import Sizes
from attnspec.runtime.bench.setup import Setup, examples, inputs
from attnspec.runtime.bench.verify import results_of, verify
from tests.support.marks import slow


@pytest.mark.parametrize(
    "name", ["linear_documents", "lolcats", *map(slow, ("gla", "gated_delta", "forgetting", "performer_causal"))]
)
def test_right_results_agree_and_wrong_ones_do_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnspec.runtime.bench.exact._NUMBERS", 1000)
    attend = attnspec.compile(name, target="dense")
    setup = Setup(Sizes(30, 30, 4, 2, 1), 8, torch.float32, True, 1, torch.device("cpu"), {})
    given = examples(attend.spec, setup)
    q, k, v, dout = inputs(setup)
    dout[:, :2] = 0  # of heads that are not looked at
    results = results_of(attend, (q, k, v, dout), given)
    found = verify(attend.spec, setup.sizes, (q, k, v, dout), results, given, (1,))
    assert found.agrees, found
    assert {"out", "dq", "dk", "dv"} <= found.errors.keys()
    for wrong in found.errors:
        off = {**results, wrong: results[wrong] * 1.01}
        assert not verify(attend.spec, setup.sizes, (q, k, v, dout), off, given, (1,)).agrees, wrong
