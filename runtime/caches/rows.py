"""Queries against keys that are kept in pieces: each piece is a part of the score matrix, added to in the kernel."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from torch import Tensor

from attnspec.codegen.expressions.reads import names
from attnspec.codegen.plan.lengths import NARROW_LENGTH
from attnspec.relation.sizes import Sizes
from attnspec.runtime.caches.strip import Piece
from attnspec.runtime.core.request import Call, Part
from attnspec.runtime.prepare.apart import keys_turn_once, turned_queries
from attnspec.runtime.prepare.inputs import prepare
from attnspec.runtime.prepare.rotate import turned
from attnspec.runtime.targets import target_of
from attnspec.spec.spec import Spec


def rows(
    spec: Spec,
    program: str,
    q: Tensor,
    pieces: Iterable[Piece],
    part: Part,
    scale: float | None,
    inputs: Mapping[str, Tensor],
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp, float32, of queries that see what stands in some pieces, without the sink.

    ``part`` says where the queries lie; keys are those of the pieces, turned already where they turn once.
    """
    if scale is None:
        scale = 1.0 / math.sqrt(q.shape[-1]) if spec.scale is None else spec.scale
    whole = Sizes(part.n, part.n_q, part.heads, part.kv_heads, part.batch, spec.align == "end")
    found = prepare(spec, whole, inputs, wide=max(part.n, part.n_q) > NARROW_LENGTH, device=q.device)
    read = [found[name] for name in names(spec)]
    once = keys_turn_once(spec)
    by_q = q
    sums: tuple[Tensor, Tensor] | None = None
    for piece in pieces:
        at, by_k = part._replace(k_start=piece.start), piece.k
        sizes = at.sizes(q, piece.k, spec.align, None)
        if not once:
            by_q, by_k = turned(spec, q, piece.k, sizes, found, compiled=True)
        elif sums is None:
            by_q = turned_queries(spec, q, sizes, found)
        call = Call(by_q, by_k, piece.v, read, None, None, float(scale), program, at)
        out, lse = target_of(call.program.target, q.device.type).forward(call, False, into=sums)[:2]
        sums = out, lse
    if sums is None:
        raise ValueError("there are no keys")
    return sums
