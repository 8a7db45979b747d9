"""Unions of what counts from where documents begin or end, and of windows: two ranges of tiles with a gap between."""

from __future__ import annotations

import pytest
import torch

from tests.support.marks import slow
from tests.support.oracle import agree, tensors
from tests.support.targets import compiled

LOCAL = "input doc: int[batch, n] sorted  within doc[q] == doc[k]"
UNIONS = {
    "first keys": f"{LOCAL} and k <= q  attend k - first(doc, k) < 4  attend window(20)",
    "last keys": f"{LOCAL}  attend last(doc, k) - k < 3  attend |q - k| < 9",
    "first queries": f"{LOCAL}  attend q - first(doc, q) < 2  attend q - k in -3..9",
    "no window": f"{LOCAL} and q - k >= 12  attend last(doc, q) - q < 2  attend k - first(doc, q) <= 3",
    "any document": "input doc: int[batch, n] sorted  align start  attend k < first(doc, q) - 90  attend window(7)",
}


@pytest.mark.parametrize(
    ("target", "name"),
    [*(("cpp", name) for name in UNIONS), ("triton", "first keys"), *(slow("triton", n) for n in [*UNIONS][1:])],
)
def test_two_ranges_of_tiles(target: str, name: str) -> None:
    attend = compiled(f"attention a {{ {UNIONS[name]} }}", target)
    assert any(item.tests.key_spans or item.tests.query_spans for one in attend.plan.classes for item in one.passes)
    for n, n_q in {"cpp": ((700, 700), (641, 90), (300, 420)), "triton": ((150, 150),)}[target]:
        one, few = (
            (torch.arange(n) >= torch.tensor(begins)).sum(0)[None] * 3 - 7
            for begins in ([[0]], [[9], [10], [n // 3], [n - 5]])
        )
        for heads, doc in ((1, one), (2, few)):
            q, k, v = tensors(n, n_q, heads=heads, kv_heads=1, batch=1, seed=n)
            agree(attend, q, k, v, inputs={"doc": doc})
            if target == "triton":
                break
