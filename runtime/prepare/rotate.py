"""Rotary position embeddings: RoPE, xPos and YaRN, applied to keys before the kernel, to queries in it.

The turn itself is done in float32 (float64 for float64 tensors) and rounded once to the dtype of the tensor.

C++ kernels turn a query when they load it, which they do once, where no gradients are wanted; backward reads the turned
queries, so with gradients they are turned before. Turning keys in the kernel too was measured: at every visit of a key
tile that costs arithmetic, 5 to 7 % of a causal forward pass; it would win 3 % of a window of 1,024 with as many key
heads as query heads.

Pairs are neighbours ("pairs": Su et al., 2021) or lie half of the turned dimensions apart ("half": Llama, gpt-oss).

>>> from attnspec.spec.expr import Var
>>> from attnspec.spec.parts import Rotation
>>> rope = Rotation("rope", (("theta", 10000.0), ("dims", 0), ("layout", "pairs")), Var("q"), Var("k"))
>>> rotate(torch.tensor([1.0, 0.0, 1.0, 0.0]).expand(1, 1, 2, 4), torch.arange(2), rope, "q")[0, 0]
tensor([[1.0000, 0.0000, 1.0000, 0.0000],
        [0.5403, 0.8415, 0.9999, 0.0100]])
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.visible import visible
from attnspec.runtime.cpp.turn import turn, turn_at_once, turns
from attnspec.runtime.prepare.frequencies import rotated_dims
from attnspec.runtime.prepare.positions import centre_of, places
from attnspec.runtime.prepare.tables import cached_tables
from attnspec.spec.parts import Rotation
from attnspec.spec.spec import Spec

ROWS = 4096
"""Rows that are turned at a time: what is in between stays in the cache of the processor."""


class Angles(NamedTuple):
    """Cosines and sines, which expand to (batch, heads, n, pairs), and which dimensions they turn.

    ``pairs``: whether neighbouring dimensions are a pair; ``start``: the first dimension that is turned.
    """

    cos: Tensor
    sin: Tensor
    pairs: bool
    start: int


Kept = Sequence[tuple[Angles, Angles]]
"""Of queries and of keys, for each rotation of a spec."""


def rotate(
    x: Tensor,
    positions: Tensor | range,
    rotation: Rotation,
    side: str,
    centre: float = 0.0,
    compiled: bool = False,
    sizes: Sizes | None = None,
    inputs: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """The vectors of ``x`` (batch, heads, n, dim), turned by their positions; same shape and dtype, differentiable.

    ``positions`` are those of :func:`attnspec.runtime.prepare.tables.tables`, or a range of n. ``side`` is ``"q"`` or
    ``"k"``: xPos shrinks the one and stretches the other, around the position ``centre``, which must be the same for
    both sides (scores do not depend on it; it keeps the numbers in the range of their dtype). ``compiled`` is for the
    C++ routine where it can be used: float32, bfloat16 and float16 on the CPU, unless torch.compile traces. ``inputs``
    are those that the rotation reads; positions and inputs that ask for gradients get them.

    Raises CallError where the head size does not fit the rotation, or positions are too far from the centre for xPos;
    with ``compiled``, CompilerError without a C++ compiler.
    """
    return _rotated(x, angles(x, positions, rotation, side, centre, sizes, inputs), compiled)


def _rotated(x: Tensor, by: Angles, compiled: bool) -> Tensor:
    if not visible(x) or by.cos.requires_grad:
        return _turn_whole(x, *by)
    if compiled and turns(x):
        return turn(x, *by)
    return _Turn.apply(x, *by)  # type: ignore[no-any-return, no-untyped-call]


def angles(
    x: Tensor,
    positions: Tensor | range,
    rotation: Rotation,
    side: str,
    centre: float = 0.0,
    sizes: Sizes | None = None,
    inputs: Mapping[str, Tensor] | None = None,
) -> Angles:
    """By what :func:`rotate` turns ``x``."""
    dims = rotated_dims(rotation, x.shape[-1])
    sizes = sizes or Sizes(x.shape[2], x.shape[2], x.shape[1], x.shape[1], x.shape[0])
    cos, sin = cached_tables(rotation, positions, dims, side, centre, x, sizes, inputs or {})
    if cos.dim() == 4 and cos.shape[1] not in (1, x.shape[1]):
        raise CallError(
            f"rotate {rotation.kind}: {side} turns by positions or frequencies that differ by query head, but "
            f"heads are shared: there are {cos.shape[1]} query heads and {x.shape[1]} of {side}"
        )
    return Angles(cos, sin, dict(rotation.options).get("layout", "half") == "pairs", rotation.start)


def turned(
    spec: Spec,
    q: Tensor,
    k: Tensor,
    sizes: Sizes,
    inputs: Mapping[str, Tensor] | None = None,
    compiled: bool = False,
    kept: Kept = (),
) -> tuple[Tensor, Tensor]:
    """The queries and keys whose dot products are the scores: normalized, then rotated as the spec says.

    q is (batch, heads, n_q, dim), k (batch, kv_heads, n, dim); ``inputs`` are those that rotations read, with what is
    derived from them (``doc.first``), as :func:`attnspec.runtime.prepare.inputs.prepare` makes them. ``compiled`` is
    that of :func:`rotate`; ``kept`` the angles where they are known, for tensors that
    :func:`attnspec.runtime.core.direct.direct` lets pass.
    """
    q, k = units(spec, q, k)
    for by_q, by_k in kept:
        q, k = turn_at_once(q, *by_q), turn_at_once(k, *by_k)
    for by_q, by_k in () if kept else all_angles(spec, q, k, sizes, inputs or {}):
        q, k = _rotated(q, by_q, compiled), _rotated(k, by_k, compiled)
    return q, k


def half_turned(
    spec: Spec, q: Tensor, k: Tensor, sizes: Sizes, inputs: Mapping[str, Tensor], kept: Kept = ()
) -> tuple[Tensor, Tensor, Angles]:
    """As :func:`turned` with a single rotation, but the queries are not turned yet: with the tables to do it."""
    q, k = units(spec, q, k)
    if kept:
        ((by_q, by_k),) = kept
        return q, turn_at_once(k, *by_k), by_q
    ((by_q, by_k),) = all_angles(spec, q, k, sizes, inputs)
    return q, _rotated(k, by_k, True), by_q


def all_angles(
    spec: Spec, q: Tensor, k: Tensor, sizes: Sizes, inputs: Mapping[str, Tensor]
) -> Iterator[tuple[Angles, Angles]]:
    """By what each rotation of a spec turns queries and keys."""
    for rotation in spec.rotations:
        at_q, at_k, centre = _places(rotation, q, sizes, inputs)
        by_q, by_k = (
            angles(x, at, rotation, s, centre, sizes, inputs) for x, at, s in ((q, at_q, "q"), (k, at_k, "k"))
        )
        yield by_q, by_k


def rotation_tables(spec: Spec, q: Tensor, k: Tensor, sizes: Sizes, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Cosines and sines for queries, then for keys, of each rotation of a spec."""
    return [t for both in all_angles(spec, q, k, sizes, inputs) for by in both for t in by[:2]]


def turned_by(spec: Spec, q: Tensor, k: Tensor, found: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """As :func:`turned`, by the tables that :func:`rotation_tables` gives, in operations that a compiler can fuse."""
    q, k = units(spec, q, k)
    for i, rotation in enumerate(spec.rotations):
        pairs = dict(rotation.options).get("layout", "half") == "pairs"
        q = _turn_whole(q, found[4 * i], found[4 * i + 1], pairs, rotation.start)
        k = _turn_whole(k, found[4 * i + 2], found[4 * i + 3], pairs, rotation.start)
    return q, k


def units(spec: Spec, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys, those of length one that a spec normalizes."""
    return _unit(q) if "q" in spec.normalized else q, _unit(k) if "k" in spec.normalized else k


def _places(
    rotation: Rotation, q: Tensor, sizes: Sizes, inputs: Mapping[str, Tensor]
) -> tuple[Tensor | range, Tensor | range, float]:
    """The positions of both sides, and the centre of xPos."""
    pairs = rotated_dims(rotation, q.shape[-1]) // 2
    at_q, at_k = (
        places(expr, side, sizes, inputs, pairs, q.device) for expr, side in ((rotation.q, "q"), (rotation.k, "k"))
    )
    return at_q, at_k, centre_of(at_q, at_k) if rotation.kind == "xpos" else 0.0


def _unit(x: Tensor) -> Tensor:
    """Vectors of length one; a zero vector stays zero."""
    wide, wrong = _finite(x if x.dtype == torch.float64 else x.float())
    return torch.nn.functional.normalize(wide, dim=-1).masked_fill(wrong, torch.nan).to(x.dtype)


def _finite(x: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors without those that are not finite, and which these are: whoever turns them gives NaN for all of one.

    Backward would multiply them by the zeros that are the gradients of what no row sees, which is no number.
    """
    wrong = ~x.isfinite().all(-1, keepdim=True)
    return x.masked_fill(wrong, 0.0), wrong


class _Turn(torch.autograd.Function):
    """``turn`` in torch operations: any dtype and device. Works through the rows in pieces, keeps only the tables."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, pairs: bool, start: int) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.pairs, ctx.start = pairs, start
        out = torch.empty_like(x)
        whole = slice(start, start + 2 * cos.shape[-1])
        out[..., : whole.start], out[..., whole.stop :] = x[..., : whole.start], x[..., whole.stop :]
        for row in range(0, x.shape[-2], ROWS):
            rows = slice(row, row + ROWS)
            c, s = cos[..., rows, :], sin[..., rows, :]
            (a, b), (first, second) = (_split(t[..., rows, whole], pairs) for t in (x, out))
            a, b = a.to(cos.dtype), b.to(cos.dtype)
            turned = a * c
            first.copy_(turned.addcmul_(b, s, value=-1.0))
            torch.mul(b, c, out=turned)
            second.copy_(turned.addcmul_(a, s))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        back = _Turn.apply(gradients[0], cos, -sin, ctx.pairs, ctx.start)  # type: ignore[no-untyped-call]
        return back, None, None, None, None


def _split(x: Tensor, pairs: bool) -> tuple[Tensor, Tensor]:
    """The two members of each pair, (..., dims / 2) views."""
    if pairs:
        return x[..., 0::2], x[..., 1::2]
    return x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]


def _turn_whole(x: Tensor, cos: Tensor, sin: Tensor, pairs: bool, start: int) -> Tensor:
    """What _Turn computes, in terms that a compiler can fuse, and differentiable in the tables too."""
    stop = start + 2 * cos.shape[-1]
    part, wrong = _finite(x[..., start:stop])
    a, b = (t.to(cos.dtype) for t in _split(part, pairs))
    first, second = (a * cos - b * sin).to(x.dtype), (b * cos + a * sin).to(x.dtype)
    turned = torch.stack((first, second), dim=-1).flatten(-2) if pairs else torch.cat((first, second), dim=-1)
    turned = turned.masked_fill(wrong, torch.nan)
    parts = (x[..., :start], turned, x[..., stop:])
    return turned if stop - start == x.shape[-1] else torch.cat(parts, dim=-1)
