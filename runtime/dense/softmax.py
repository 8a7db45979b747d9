"""Attention over whole matrices in plain PyTorch: the oracle of the tests, and a target when asked for by name.

Everything a spec says besides which pairs there are is applied here as it is defined: normalized and rotated vectors,
score and sink lines, pairs that count several times, mixtures whose weights carry no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.visible import array, everything
from attnspec.runtime.expressions.real import real, tables
from attnspec.runtime.linear.decay import steps
from attnspec.runtime.prepare.rotate import turned
from attnspec.spec.real import Apply, Cast, Choose, Item, Parameter, Product, Real, RealExpr, RealRead, Score, Total
from attnspec.spec.spec import Spec

_ANYWHERE = (Real, Parameter, Item, Score, Cast, RealRead, Total, Product, Choose)


def dense_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Softmax attention over the pairs of a mask, and its log-sum-exp.

    Shapes as in :func:`attnspec.compile`'s callable; ``mask`` is (batch, heads, n_q, n) or broadcasts to it, bool.
    Computed in the dtype of the inputs (give float64 for an oracle). A row without keys gives zeros and minus infinity.
    """
    keys, values = (per_head(t, q.shape[1]) for t in (k, v))
    scores = (q @ keys.transpose(-1, -2)) * scale
    return _softmax(scores, mask, values, None)


def dense(
    spec: Spec,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None,
    inputs: Mapping[str, Tensor],
    counts: Tensor | Sequence[Tensor],
    sizes: Sizes | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention as a spec defines it: the output (batch, heads, n_q, dim_v) and the log-sum-exp (batch, heads, n_q).

    q is (batch, heads, n_q, dim), k (batch, kv_heads, n, dim), v (batch, kv_heads, n, dim_v). Computed in the dtype of
    q, which also float inputs are taken to; float64 makes it the oracle. Differentiable in q, k, v and float inputs.

    ``counts`` says how often each pair counts, (batch, heads, n_q, n) or what broadcasts to it, bool or integers: once
    for each branch of a mixture or slot of an order in which it stands. Where the spec's weights are ``detached``, it
    is a sequence with one such tensor for each branch: the output is the sum of each branch's softmax attention times
    its share of the denominator, through which share no gradient goes. (Otherwise a sequence is added up.) A mixture
    that is computed branch by branch (``composed``) is no single call of this.

    ``scale`` is the factor of the dot products; None is the spec's, or 1 / sqrt(dim). ``inputs`` holds the tensors that
    the spec reads in scores, sinks and rotations, with what is derived from them; see
    :func:`attnspec.runtime.prepare.inputs.prepare`. ``sizes`` are by default those of the tensors.

    The log-sum-exp is natural and includes the sink. A row without pairs gives zeros and, without a sink, minus
    infinity. With detached weights a sink is part of the weights: it has a gradient only through the log-sum-exp.
    """
    assert not spec.composed
    if sizes is None:
        m = spec.sizes(k.shape[2], q.shape[2])["m"]
        sizes = Sizes(k.shape[2], q.shape[2], q.shape[1], k.shape[1], q.shape[0], spec.align == "end", m)
    if scale is None:
        scale = 1.0 / math.sqrt(q.shape[-1]) if spec.scale is None else spec.scale
    shape = (*q.shape[:3], k.shape[2])
    parts = [t.to(q.device).expand(shape) for t in ([counts] if isinstance(counts, Tensor) else counts)]
    q, k = turned(spec, q, k, sizes, inputs)
    seen = together(parts) > 0
    keys, values = (without(per_head(t, q.shape[1]), seen.any(-2)) for t in (k, v))
    q = without(q, seen.any(-1))
    whole = Block(range(sizes.batch), range(sizes.heads), np.arange(sizes.n_q))
    return dense_block(spec, q, keys, values, scale, inputs, parts, sizes, whole)


@dataclass(frozen=True)
class Block:
    """Some rows of queries, of some heads of some batch entries, by their numbers."""

    entries: range
    heads: range
    rows: NDArray[np.int64]


def dense_block(
    spec: Spec,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    inputs: Mapping[str, Tensor],
    counts: Sequence[Tensor],
    sizes: Sizes,
    block: Block,
) -> tuple[Tensor, Tensor]:
    """As :func:`dense` for a block of queries, (entries, heads, rows, dim), rotated already.

    k (entries, heads, n, dim) and v (entries, heads, n, dim_v) are those of the block's query heads. ``counts`` are
    (entries, heads, rows, n); ``sizes`` are those of the whole call.
    """
    scores, sink = scores_block(spec, q, k, scale, inputs, counts, sizes, block)
    if not spec.detached:
        return _softmax(scores, together(counts), v, sink)
    outs, shares = zip(*(_softmax(scores, part, v, None) for part in counts), strict=True)
    lse = _logsumexp(torch.stack([*shares, *([] if sink is None else [sink])]), 0)
    safe = lse.masked_fill(torch.isneginf(lse), 0.0)
    weights = [torch.exp(share - safe).detach() for share in shares]
    return sum((w[..., None] * out for w, out in zip(weights, outs, strict=True)), torch.zeros_like(outs[0])), lse


def scores_block(
    spec: Spec,
    q: Tensor,
    k: Tensor,
    scale: float,
    inputs: Mapping[str, Tensor],
    counts: Sequence[Tensor],
    sizes: Sizes,
    block: Block,
) -> tuple[Tensor, Tensor | None]:
    """The scores of a block, (entries, heads, rows, n), not masked, and its sinks; all as for :func:`dense_block`."""
    dots = (q @ k.transpose(-1, -2)) * scale
    scores = _scored(spec.score, dots, together(counts) > 0, sizes, inputs, block)
    if (found := steps(spec, inputs, sizes, q.device)) is not None:
        lost = found.between(block.rows + sizes.first, np.arange(sizes.n))[_part(block.entries), _part(block.heads)]
        scores = scores + lost.to(scores.dtype)
    rows = dots.new_empty(dots.shape[:3])
    return scores, None if spec.sink is None else by_row(spec.sink, rows, sizes, inputs, block)


def _part(of: range) -> slice:
    return slice(of.start, of.stop)


def of_rows(
    spec: Spec, like: Tensor, sizes: Sizes, inputs: Mapping[str, Tensor], block: Block
) -> tuple[list[Tensor], Tensor | None]:
    """Of a mixture that is computed branch by branch: their shares, if they have such, or else the sink of the whole.

    (entries, heads, rows), like ``like``.
    """
    shares = [branch.share for branch in spec.mixture if branch.share is not None]
    if shares or spec.sink is None:
        return [by_row(share, like, sizes, inputs, block) for share in shares], None
    return [], by_row(spec.sink, like, sizes, inputs, block)


def together(counts: Sequence[Tensor]) -> Tensor:
    """How often pairs count in all branches together."""
    return counts[0] if len(counts) == 1 else torch.stack([part.long() for part in counts]).sum(0)


def without(x: Tensor, seen: Tensor) -> Tensor:
    """Vectors without those that have no part in any pair: zero times what they hold may be no number."""
    return x.masked_fill(~seen[..., None], 0.0)


def _softmax(scores: Tensor, counts: Tensor, values: Tensor, sink: Tensor | None) -> tuple[Tensor, Tensor]:
    """The output, and the log-sum-exp, of scores and values."""
    weights, lse = weigh(scores, counts, sink)
    return weights @ values, lse


def weigh(scores: Tensor, counts: Tensor, sink: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weights and log-sum-exp of scores (.., n_q, n) whose pairs count several times; ``sink`` is (.., n_q)."""
    live = counts > 0
    weighted = scores if counts.dtype == torch.bool else scores + torch.log(counts.to(scores.dtype).clamp_min(1.0))
    weighted = weighted.masked_fill(~live, float("-inf"))
    lse = _logsumexp(weighted, -1)
    if sink is not None:
        lse = torch.logaddexp(lse, sink)
    safe = lse.masked_fill(torch.isneginf(lse), 0.0)
    return torch.exp(weighted - safe[..., None]).masked_fill(~live, 0.0), lse


def _logsumexp(x: Tensor, dim: int) -> Tensor:
    """The log-sum-exp, with a gradient of zero (not NaN) where all terms are minus infinity."""
    empty = torch.isneginf(x).all(dim)
    return torch.logsumexp(x.masked_fill(empty.unsqueeze(dim), 0.0), dim).masked_fill(empty, float("-inf"))


def per_head(t: Tensor, heads: int) -> Tensor:
    """Keys or values for each query head."""
    group = heads // t.shape[1]
    return t.repeat_interleave(group, dim=1) if group > 1 else t


def _scored(
    node: RealExpr, dots: Tensor, live: Tensor, sizes: Sizes, inputs: Mapping[str, Tensor], block: Block
) -> Tensor:
    """The scores after the score lines, which are worked out at live pairs only where elsewhere they may be no number.

    (A number that does not count has a gradient of zero; what is not finite has one of NaN.)
    """
    if node == Score():
        return dots
    arrays = tables(inputs)
    everywhere = _finite(node, inputs)
    positions = {"q": block.rows[:, None] + sizes.first, "k": np.arange(sizes.n)}
    heads: list[Tensor] = []
    for i, b in enumerate(block.entries):
        for j, h in enumerate(block.heads):
            env = {**sizes.parameters(h, b), **arrays}
            if everywhere:
                heads.append(real(node, {**env, **positions}, inputs, dots[i, j]).expand(dots.shape[2:]))
                continue
            rows, columns = (array(t) for t in live[i, j].nonzero(as_tuple=True))
            env |= {"q": block.rows[rows] + sizes.first, "k": columns}
            values = real(node, env, inputs, dots[i, j][live[i, j]]).expand(len(rows))
            heads.append(dots.new_full(dots.shape[2:], float("-inf")).masked_scatter(live[i, j], values))
    return torch.stack(heads).view(dots.shape) if heads else dots


def _finite(node: RealExpr, inputs: Mapping[str, Tensor]) -> bool:
    """Whether a score is finite at every pair, live or not."""
    if isinstance(node, RealRead) and not bool(torch.isfinite(everything(inputs[node.name])).all()):
        return False
    fine = isinstance(node, _ANYWHERE) or (isinstance(node, Apply) and node.function in ("tanh", "abs"))
    return fine and all(_finite(child, inputs) for child in node.children() if isinstance(child, RealExpr))


def by_row(node: RealExpr, like: Tensor, sizes: Sizes, inputs: Mapping[str, Tensor], block: Block) -> Tensor:
    """The logit of a sink, or the share of a branch: (entries, heads, rows), like ``like``."""
    arrays = {**tables(inputs), "q": block.rows + sizes.first}
    found = [
        real(node, {**sizes.parameters(h, b), **arrays}, inputs, dtype=like.dtype).expand(len(block.rows))
        for b in block.entries
        for h in block.heads
    ]
    return torch.stack(found).view(like.shape).to(like.device) if found else torch.empty_like(like)
