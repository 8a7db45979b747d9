"""Queries and keys turned each by themselves, where neither has to know of the other: what caches can do beforehand."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.prepare.frequencies import rotated_dims
from attnspec.runtime.prepare.positions import places
from attnspec.runtime.prepare.rotate import rotate, units
from attnspec.spec.spec import Spec


def turned_keys(spec: Spec, k: Tensor, sizes: Sizes) -> Tensor:
    """Keys as the kernel reads them, where they :func:`turn once <keys_turn_once>`; ``sizes`` say where they stand."""
    return _turned(spec, units(spec, k, k)[1], "k", sizes, {})


def turned_queries(spec: Spec, q: Tensor, sizes: Sizes, inputs: Mapping[str, Tensor]) -> Tensor:
    """Queries as the kernel reads them, beside such keys; ``inputs`` are those that rotations read, prepared."""
    return _turned(spec, units(spec, q, q)[0], "q", sizes, inputs)


def _turned(spec: Spec, x: Tensor, side: str, sizes: Sizes, inputs: Mapping[str, Tensor]) -> Tensor:
    for rotation in spec.rotations:
        expr = rotation.q if side == "q" else rotation.k
        at = places(expr, side, sizes, inputs, rotated_dims(rotation, x.shape[-1]) // 2, x.device)
        x = rotate(x, at, rotation, side, 0.0, True, sizes, inputs)
    return x
