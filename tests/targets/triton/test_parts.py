"""Parts of calls by Triton kernels, in the interpreter: merged and added, against the whole call."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given

import attnspec
from tests.support.oracle import tensors
from tests.support.parts import Cuts, agree_in_parts, cuts
from tests.support.patterns import MIXTURES, PATTERNS
from tests.support.shipped import SMALL, SOFTMAX, call_of
from tests.support.strategies import Case, cases
from tests.support.targets import compiled
from tests.targets.test_generated import examples

CUTS = Cuts((0.3,), (0.0, 0.4), (0.5,))
"""Inside tiles, on both sides and between heads; a part without keys."""


def test_inside_tiles() -> None:
    """Residues: a part may end in any of them, in a tile that the plan calls full."""
    attend = compiled("dilated", "triton", params={"width": 12, "rate": 2}, tile=(16, 16))
    agree_in_parts(attend, *tensors(60, 60, 4, 2, dim=16), Cuts((), (0.45,)))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PATTERNS, *MIXTURES])
def test_patterns(name: str) -> None:
    attend = compiled({**PATTERNS, **MIXTURES}[name], "triton")
    agree_in_parts(attend, *tensors(90, 70, 4, 2), CUTS)


SHIPPED = [name for name in SOFTMAX if not attnspec.read(name).order]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped(name: str) -> None:
    attend = compiled(name, "triton", params=SMALL.get(name, {}))
    given, inputs = call_of(attend, 97, 16, torch.float32)
    agree_in_parts(attend, *given, CUTS, inputs)


@pytest.mark.slow
def test_half_precision() -> None:
    """The interpreter multiplies bfloat16 wrongly; what types the results have is the same."""
    attend = compiled(PATTERNS["both"], "triton")
    agree_in_parts(attend, *tensors(90, 90, 4, 2, dim=33, dtype=torch.float16), CUTS)


@pytest.mark.slow
@examples(4)
@given(cases(inputs=True), cuts())
def test_specs(case: Case, at: Cuts) -> None:
    attend = compiled(case.text, "triton", params=case.params)
    given = tensors(case.n, case.n_q, case.heads, 1, case.batch, seed=case.n)
    agree_in_parts(attend, *given, at, {name: torch.from_numpy(array) for name, array in case.inputs.items()})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["causal", "longformer", "padded"])
@pytest.mark.parametrize("shares", [1, 3])
def test_few_rows(name: str, shares: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding over a cache in two pieces: heads that share keys fill one tile, whose keys several programs share."""
    monkeypatch.setattr("attnspec.runtime.triton.run._shares", lambda *_: shares)
    attend = compiled(name, "triton", params=SMALL.get(name, {}), tile=(16, 32))
    given = {"length": torch.tensor([90, 30])} if name == "padded" else {}
    agree_in_parts(attend, *tensors(150, 3, 4, 2, 2), Cuts((0.4,), (0.5,)), given)
