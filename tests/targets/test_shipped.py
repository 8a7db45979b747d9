"""Every shipped spec as kernels of each target, against dense attention in float64."""

from __future__ import annotations

import pytest
import torch

from tests.support.oracle import agree
from tests.support.shipped import SMALL, SOFTMAX, call_of
from tests.support.targets import TARGETS, compiled

CASES = [
    *((name, torch.float32) for name in SOFTMAX),
    *((name, torch.float16) for name in ("window", "packed", "alibi", "sparse_strided", "block_topk", "reformer")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dtype"), CASES)
@pytest.mark.parametrize("target", TARGETS)
def test_shipped_spec(target: str, name: str, dtype: torch.dtype) -> None:
    attend = compiled(name, target, params=SMALL.get(name, {}))
    given, inputs = call_of(attend, 81, 32, dtype)
    agree(attend, *given, inputs=inputs)
