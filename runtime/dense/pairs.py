"""Which pairs a call has, as masks over whole matrices; of keys alone, where a correction needs them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from attnspec.analysis.past import require_past
from attnspec.relation.lower import lower, sizes_needed
from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.visible import array
from attnspec.spec import contents
from attnspec.spec.spec import Spec


def counted(spec: Spec, sizes: Sizes, inputs: Mapping[str, Tensor]) -> Tensor | list[Tensor]:
    """How often each pair counts, (batch, heads, n_q, n); a list, for each branch, where these are told apart."""
    arrays = {name: np.zeros(t.shape) if t.is_floating_point() else array(t) for name, t in inputs.items()}
    masks = [
        torch.from_numpy(one.mask(sizes.n, sizes.n_q, sizes.heads, sizes.batch, sizes.kv_heads, inputs=arrays))
        for one in (spec.alone if spec.detached else (spec,))
    ]
    if not spec.detached:
        return masks[0]
    return [mask.long() * branch.times for mask, branch in zip(masks, spec.branches, strict=True)]


def past(spec: Spec, sizes: Sizes, inputs: Mapping[str, Tensor]) -> Tensor | None:
    """How often pairs count of which both are keys, (batch, heads, n, n), where a correction needs it, else None.

    Raises SpecError where a pattern may look ahead that must not.
    """
    if spec.weights.delta is None and not any(found.stable == "running" for found in spec.weights.favors):
        return None
    known = {name: value for name, value in sizes.parameters(0, 0).items() if name in _needed(spec)}
    _require_past(spec, tuple(known.items()))
    if spec.weights.delta is None:
        return None
    if sizes.n_q != sizes.n and any("n_q" in contents.free(size) for i in spec.inputs for size in i.sizes):
        raise CallError(f"{spec.name}: `delta` takes keys as queries: beside it inputs of fewer queries are not read")
    counts = counted(spec, replace(sizes, n_q=sizes.n), inputs)
    assert isinstance(counts, Tensor)
    return counts


@functools.lru_cache(maxsize=64)
def _needed(spec: Spec) -> frozenset[str]:
    return frozenset(sizes_needed(spec))


@functools.lru_cache(maxsize=64)
def _require_past(spec: Spec, known: tuple[tuple[str, int], ...]) -> None:
    require_past(lower(spec, **dict(known)))
