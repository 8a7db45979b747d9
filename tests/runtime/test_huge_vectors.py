"""Vectors with entries of 1e4: what is finite gives finite outputs and gradients, in any precision."""

from __future__ import annotations

import pytest
import torch

from tests.support.linear import as_dense
from tests.support.oracle import tensors

FAVOR = "attention a {{ attend causal  linear favor(x, features = 12, {})  divide total + 1e-6 * mass }}"
SPECS = {
    "performer_causal": "performer_causal",
    "performer_google": "performer_google",
    "latte": "latte",
    "features of whole vectors": "attention a { attend causal  linear [softmax(x), softmax(-x)]  divide total }",
    "running": FAVOR.format("stable = running"),
    "running, no epsilon": FAVOR.format("stable = running, eps = 0.0"),
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SPECS)
def test_huge_vectors(name: str, dtype: torch.dtype) -> None:
    q, k, v = tensors(70, dim=8, dim_v=5, dtype=dtype)
    with torch.no_grad():
        q[q > 1] = 1e4
        k[k > 1] = 1e4
        k[k < -1] = -1e4
        k[:, :, 30], k[:, :, 50] = 1e4, -1e4
    as_dense(SPECS[name], q, k, v)
