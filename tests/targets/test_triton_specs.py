"""Every shipped spec as Triton kernels in triton's interpreter, against dense attention in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import attnspec
from attnspec.relation.sizes import Sizes
from attnspec.runtime.prepare.inputs import example
from attnspec.spec.axes import lengths
from tests.spec.test_specs import NAMES
from tests.support.oracle import agree, tensors

pytest.importorskip("triton")

# Parameters that make every kind of tile occur at the length of this test.
SMALL: dict[str, dict[str, Any]] = {
    "alibi_window": {"width": 40},
    "axial": {"width": 8},
    "bigbird": {"block": 16, "randoms": 2},
    "bigbird_mixture": {"block": 16, "randoms": 2},
    "block_diffusion": {"block": 8},
    "block_table": {"block": 32},
    "block_topk": {"block": 32, "count": 2},
    "blockwise_causal": {"block": 24},
    "chunked": {"size": 48},
    "dilated": {"width": 24, "rate": 3},
    "etc": {"globals": 9, "radius": 20},
    "gpt_oss": {"width": 40},
    "hierarchical": {"segment": 24, "slots": 3},
    "logsparse": {"levels": 6},
    "longformer": {"width": 40, "globals": 5},
    "longformer_axes": {"width": 40, "globals": 5},
    "longformer_dilated": {"width": 16, "dilations": [1, 2, 3, 4]},
    "longnet": {"branches": [[24, 1], [48, 2], [96, 3]]},
    "longnet_branch": {"segment_size": 48, "rate": 3},
    "memory": {"slots": 7},
    "neighborhood_2d": {"width": 16, "radius": 2},
    "neighborhood_2d_shifted": {"height": 8, "width": 16, "radius": 2},
    "packed_window": {"start": 2, "recent": 24},
    "prefix_lm": {"length": 20},
    "reformer": {"buckets": 8, "rounds": 2, "chunk": 16},
    "reformer_bucket": {"buckets": 8, "rounds": 2, "chunk": 16},
    "segments": {"size": 40},
    "shared_question": {"question": 30, "answer": 17},
    "sinks": {"start": 3, "recent": 40},
    "softcap": {"width": 40, "cap": 5},
    "sparse_fixed": {"stride": 16, "summary": 4},
    "sparse_strided": {"stride": 12},
    "streaming": {"start": 3, "recent": 40},
    "t5_bias": {"buckets": 8, "furthest": 32},
    "window": {"width": 40},
    "yarn": {"original": 32},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", NAMES)
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
