"""Parts of calls with inputs, score lines, rotations, sinks and axes, and of every shipped spec, against the whole."""

from __future__ import annotations

import pytest
import torch

import attnspec
from attnspec.runtime.core.arguments import CallError
from tests.support.clauses import CLAUSES, HEADS
from tests.support.oracle import tensors
from tests.support.parts import Cuts, agree_in_parts
from tests.support.shipped import SMALL, SOFTMAX, call_of
from tests.support.targets import compiled

CUTS = Cuts((0.13, 0.14, 0.6), (0.0, 0.21, 0.22, 0.7), (0.5,), (0.4,))
ORDERS = ("reformer", "reformer_bucket")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CLAUSES if not name.startswith("lsh")])
def test_clauses(name: str) -> None:
    text, inputs = CLAUSES[name]
    attend = compiled(f"attention a {{ {text} }}", "cpp")
    n = 160 if "axis" not in text else 20 + 20 // 4
    n_q = n + 7 if "axis" in text else n
    agree_in_parts(attend, *tensors(n, n_q, HEADS, 2, 2), CUTS, inputs(2, n))
    if "axis" not in text and "n_q" not in text:
        agree_in_parts(attend, *tensors(n, 61, HEADS, 2, 2), CUTS, inputs(2, n))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SOFTMAX if name not in ORDERS])
def test_shipped(name: str) -> None:
    attend = attnspec.compile(name, params=SMALL.get(name, {}))
    given, inputs = call_of(attend, 120, 32, torch.float32)
    agree_in_parts(attend, *given, CUTS, inputs)


@pytest.mark.parametrize("name", ORDERS)
def test_an_order_has_no_parts(name: str) -> None:
    attend = attnspec.compile(name, params=SMALL[name])
    q, k, v = tensors(64)
    with pytest.raises(CallError, match="the order is computed from all queries and keys"):
        attend.part(q, k, v, q_start=0, k_start=0, n=64)
