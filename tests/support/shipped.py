"""The shipped specs in tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import attnspec
from attnspec.reference.specs import GROUPS
from attnspec.relation.sizes import Sizes
from attnspec.runtime.attention import Attention
from attnspec.runtime.prepare.example import example
from attnspec.spec.axes import lengths
from attnspec.spec.real import Score
from attnspec.spec.spec import Spec
from attnspec.spec.strided import why_not_strided
from tests.support.oracle import tensors

# Parameters that make every kind of tile occur at a length of about a hundred.
SMALL: dict[str, dict[str, Any]] = {
    "alibi_window": {"width": 40},
    "axial": {"width": 8},
    "bigbird": {"block": 16, "randoms": 2},
    "bigbird_mixture": {"block": 16, "randoms": 2},
    "block_diffusion": {"block": 8},
    "block_table": {"block": 32},
    "block_topk": {"block": 32},
    "blockwise_causal": {"block": 24},
    "chunked": {"size": 48},
    "dilated": {"width": 24, "rate": 3},
    "etc": {"globals": 9, "radius": 20},
    "gpt_oss": {"width": 40},
    "hierarchical": {"segment": 24, "slots": 3},
    "hmt": {"before": 9},
    "logsparse": {"levels": 6},
    "longformer": {"width": 40, "globals": 5},
    "longformer_axes": {"width": 40, "globals": 5},
    "longformer_dilated": {"width": 16, "dilations": [1, 2, 3, 4]},
    "longnet": {"branches": [[24, 1], [48, 2], [96, 3]]},
    "longnet_branch": {"segment_size": 48, "rate": 3},
    "memory": {"slots": 7},
    "memory_layers": {"length": 70},
    "neighborhood_2d": {"width": 16, "radius": 2},
    "neighborhood_2d_shifted": {"height": 8, "width": 16, "radius": 2},
    "packed_window": {"start": 2, "recent": 24},
    "prefix_lm": {"length": 20},
    "reformer": {"buckets": 8, "rounds": 2, "chunk": 16},
    "reformer_bucket": {"buckets": 8, "rounds": 2, "chunk": 16},
    "rmt": {"slots": 7},
    "rmt_both_ways": {"slots": 7},
    "segments": {"size": 40},
    "shared_question": {"question": 30, "answer": 17},
    "sinks": {"start": 3, "recent": 40},
    "softcap": {"width": 40, "cap": 5},
    "sparse_fixed": {"stride": 16, "summary": 4},
    "sparse_strided": {"stride": 12},
    "streaming": {"start": 3, "recent": 40},
    "streaming_cache": {"start": 3, "recent": 40},
    "swin": {"width": 11, "window": 3, "shift": 1},
    "t5_bias": {"buckets": 8, "furthest": 32},
    "transformer_xl": {"length": 50, "same_length": True},
    "window": {"width": 40},
    "llama3": {"original": 32},
    "longrope": {"original": 32, "dims": 32},
    "mrope": {"time": 2, "height": 3},
    "rope_2d": {"width": 11, "dims": 16},
    "yarn": {"original": 32},
}


def is_a_mask(spec: Spec) -> bool:
    """Whether a spec says which pairs there are and nothing more, of positions in order."""
    more = (spec.inputs, spec.mixture, spec.axes, spec.order, spec.rotations, spec.sink, spec.normalized)
    return not any(more) and spec.score == Score() and spec.softmax_only


SOFTMAX = tuple(name for name in attnspec.shipped() if name not in GROUPS["without softmax"])
"""Those whose weights are plain softmax."""
FUSED = tuple(name for name in SOFTMAX if not attnspec.read(name).composed)
"""Those of them that one kernel computes."""
STRIDABLE = tuple(name for name in attnspec.shipped() if why_not_strided(attnspec.read(name)) is None)
"""Those that can be computed over every few positions."""


def call_of(
    attend: Attention, n: int, dim: int, dtype: torch.dtype
) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Tensor]]:
    """Tensors of four heads and example inputs for a shipped spec, for about this length."""
    spec = attend.spec
    n = 128 if spec.name == "neighborhood_2d_shifted" else n
    sizes = Sizes(n, n, 4, 4 if spec.order else 2, 1, spec.align == "end")
    if spec.axes:
        n = n if spec.recurrence is None else min(n, spec.recurrence.recur.size)
        keys, queries = lengths(spec.axes, n)
        sizes = replace(sizes, n=keys, n_q=queries, m=n)
    found = example(spec, sizes, torch.Generator().manual_seed(0))
    if spec.name == "block_topk":  # fewer than the example has, or hardly a block is left out at this length
        found["top"] = found["top"][..., :2]
    inputs = {key: t.requires_grad_(t.is_floating_point()) for key, t in found.items()}
    return tensors(sizes.n, sizes.n_q, 4, sizes.kv_heads, 1, dim, dtype=dtype), inputs
