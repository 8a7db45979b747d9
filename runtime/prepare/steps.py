"""Rotations of the last rows of sequences, each of a length of its own: what a step of an engine adds to its pages.

Keys in pages are turned once, when they are written, so that how they turn may not change from step to step.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.prepare.formula import value
from attnspec.runtime.prepare.frequencies import rotated_dims
from attnspec.runtime.prepare.rotate import rotate, units
from attnspec.spec import contents
from attnspec.spec.spec import Spec

_LENGTHS = {"n", "n_q", "m"}


def check_steps(spec: Spec) -> None:
    """Raises CallError where a key that was turned in one step would have to be turned again in the next."""
    for rotation in spec.rotations:
        why = "xPos turns around the middle of a call" if rotation.kind == "xpos" else ""
        for node in (rotation.k, *rotation.formulas):
            if read := contents.varies(node) & _LENGTHS:
                why = f"`{node}` reads `{min(read)}`, which grows"
        if why:
            raise CallError(
                f"{spec.name}: keys are stored turned, and here they turn otherwise at each length: {why}. Such keys "
                "cannot lie in pages"
            )


def turned_last(
    spec: Spec, q: Tensor, k: Tensor, lengths: Tensor, sizes: Sizes, inputs: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """As :func:`attnspec.runtime.prepare.rotate.turned`, of the last rows of entries of these lengths, (batch,).

    ``sizes`` and ``inputs`` are those of the longest entry.
    """
    ends = lengths.to("cpu", torch.int64).numpy()[:, None, None, None]
    rows = {side: np.arange(x.shape[2])[:, None] + ends - x.shape[2] for side, x in (("q", q), ("k", k))}
    if not sizes.aligned_end:
        rows["q"] = np.arange(q.shape[2])[:, None] + 0 * ends
    q, k = units(spec, q, k)
    for rotation in spec.rotations:
        pairs = range(rotated_dims(rotation, q.shape[-1]) // 2)
        at = {
            side: value(expr, sizes, inputs, {side: rows[side], "pair": pairs}, device=q.device)
            for side, expr in (("q", rotation.q), ("k", rotation.k))
        }
        q, k = (
            rotate(x, at[side].expand(x.shape[0], -1, x.shape[2], -1), rotation, side, 0.0, True, sizes, inputs)
            for side, x in (("q", q), ("k", k))
        )
    return q, k
