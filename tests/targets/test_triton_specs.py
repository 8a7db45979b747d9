"""Every shipped spec as Triton kernels in triton's interpreter, against dense attention in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import attnspec
from attnspec.relation.sizes import Sizes
from attnspec.runtime.prepare.example import example
from attnspec.spec.axes import lengths
from tests.support.oracle import agree, tensors
from tests.support.shipped import SMALL

pytest.importorskip("triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", attnspec.shipped())
def test_shipped_spec(name: str, dtype: torch.dtype) -> None:
    attend = attnspec.compile(name, params=SMALL.get(name, {}), target="triton", tile=(32, 32))
    n = 128 if name == "neighborhood_2d_shifted" else 81
    sizes = Sizes(n, n, 4, 2, 1, attend.spec.align == "end")
    if attend.spec.axes:
        keys, queries = lengths(attend.spec.axes, n)
        sizes = replace(sizes, n=keys, n_q=queries, m=n)
    inputs = example(attend.spec, sizes, torch.Generator().manual_seed(0))
    given = {key: t.requires_grad_() if t.is_floating_point() else t for key, t in inputs.items()}
    if attend.spec.order is not None:
        sizes = replace(sizes, kv_heads=4)
    q, k, v = tensors(sizes.n, sizes.n_q, 4, sizes.kv_heads, 1, 32, dtype=dtype)
    agree(attend, q, k, v, inputs=given)
