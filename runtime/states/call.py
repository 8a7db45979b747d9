"""Sequences in pieces: calls that take a state and hand one on, where weights are products of features."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from attnspec.analysis.carried import Carried, Truth, by_head
from attnspec.relation.sizes import Held, Sizes
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.program import Program, decode
from attnspec.runtime.core.program import spec as spec_of
from attnspec.runtime.core.request import check_lists, sizes_of
from attnspec.runtime.core.visible import visible
from attnspec.runtime.expressions.real import tables
from attnspec.runtime.linear.decay import logarithms
from attnspec.runtime.linear.features import apart, axes, mapped, together
from attnspec.runtime.linear.work import vector_sizes
from attnspec.runtime.prepare.inputs import Wanted, check_vectors
from attnspec.runtime.prepare.rotate import turned
from attnspec.runtime.states.allowed import require_state
from attnspec.runtime.states.documents import Documents
from attnspec.runtime.states.packed import PackedPiece, packed_masks
from attnspec.runtime.states.piece import Piece, Results
from attnspec.runtime.states.relative import PackedRelativePiece, RelativePiece
from attnspec.runtime.states.seen import Seen
from attnspec.runtime.states.whole import WholePiece, whole
from attnspec.spec.feature import size
from attnspec.spec.spec import Spec


class Asked(NamedTuple):
    """A call of a program with all that states add to it, as :class:`attnspec.runtime.attention.Attention` takes it."""

    program: str
    q: Tensor
    k: Tensor
    v: Tensor
    scale: Any
    inputs: Mapping[str, Tensor]
    state: Tensor | None
    q_start: int | None
    return_state: bool
    waiting: bool = False
    """Whether the last keys are kept beside the state: there may be fewer queries than keys, the last ones."""
    alone: bool = False
    """Whether the new state is all that is wanted: features are then made by operations of tensors."""
    largest: Tensor | None = None
    """With ``stable = all``: the largest entry of all keys of a sequence, (batch, heads), of which these are some.

    Empty: that of these keys, whatever others there are.
    """


def going_on(asked: Asked) -> Results:
    """A call that takes or gives a state: the output of q's dtype, totals and state float32 (or float64 as q is).

    Raises CallError where it cannot.
    """
    found, dtype = piece(asked).run(), asked.q.dtype
    rest = torch.float64 if dtype == torch.float64 else torch.float32
    total = None if found.total is None else found.total.to(rest)
    return Results(found.out.to(dtype), total, found.state.to(rest))


def piece(asked: Asked, going: Carried | None = None) -> Piece | WholePiece:
    """A call that takes or gives a state. Raises CallError where it cannot.

    ``going``: how sequences go on, where it is not what is left of keys before that a state is made of.
    """
    program, q, k, v, scale, inputs, state, q_start, return_state, waiting, alone, largest = asked
    known = decode(program)
    spec, dense = spec_of(known), known.target == "dense"
    (batch, heads, n_q, _), (_, kv_heads, n, _) = q.shape, k.shape
    if n_q != n and not waiting:
        raise CallError(f"{spec.name}: a state wants as many queries as keys, not {n_q} and {n}")
    if going is None:
        going = require_state(known, heads, kv_heads, batch, waiting, largest is not None)
    check_lists(known, heads, kv_heads, batch)
    start = begins(spec, going, n, state is not None, q_start, return_state)
    sizes, given = sizes_of(spec, q, k), dict(inputs)
    projection = given.pop("projection", None) if spec.weights.favors else None
    dtype = torch.float64 if dense else torch.float32
    found = _wanted(known).at(sizes, real=dtype)(given, q.device)
    if found:
        check_vectors(spec, sizes, found, vector_sizes(spec, q, v))
    weights = spec.weights
    assert weights.q is not None
    assert weights.k is not None
    packed = None if going.packed is None else Documents.of(given[going.packed], n)
    features = together(spec, size(weights.q, q.shape[3]), size(weights.k, q.shape[3]))
    by_tensors = dense or alone or largest is not None
    by_kernels = not (by_tensors or n == 1 or weights.each or weights.delta is not None or weights.running)
    if packed is not None:
        masks = packed_masks(going, packed, batch)
    else:
        masks = _masks(going, n, {**axes(sizes, 3), **tables(found)}) if going.alike else _same_masks(going, n)
    seen, kept, stays, itself = (
        None if mask is None else mask.to(q.device) for mask in (*masks, _mask(going.itself()))
    )
    if seen is not None and n_q != n:
        seen = seen[..., n - n_q :]
    if scale is None:
        scale = 1.0 if spec.scale is None else spec.scale
    own = None
    if (
        by_kernels
        and n_q == n
        and packed is None
        and seen is kept is stays is None
        and not isinstance(scale, Tensor)
        and scale != 0
    ):
        own = whole(program, heads, kv_heads, batch)
    if own is None or spec.rotations or spec.normalized:
        q, k, v = (t.to(dtype) for t in (q, k, v))
        end = start + n
        held = Held(end - n_q, n_q, start, n, 0, heads, kv_heads, 0, batch)
        q, k = turned(spec, q, k, Sizes(end, n_q, heads, kv_heads, batch, part=held), found)
    if state is not None:
        many, of = (batch, "batch") if packed is None else (batch * packed.count, "batch * documents")
        _check_state(spec, state, state_shape(spec, many, heads, kv_heads, features, v.shape[3]), of, q.device)
    if own is not None:
        return WholePiece(own, q, k, v, float(scale), state, return_state)
    of_kernels = (q, k, v) if by_kernels else None
    if heads != kv_heads and by_head(spec):
        k, v = (t.repeat_interleave(heads // kv_heads, 1) for t in (k, v))
    own_seen = Seen.of(
        program,
        sizes,
        inputs,
        state is not None,
        seen,
        kept,
        itself,
        (q, k, v) if visible(q, k, v) and not by_kernels else (),
    )
    q, (k, v) = own_seen.of_queries(spec, q), own_seen.of_keys(spec, k, v)
    needed = state is not None or not by_kernels or weights.reads_mass, return_state or not by_kernels
    needed = needed[0] and not alone, needed[1]
    a, b, gates, running = None, None, None, None
    if needed[0]:
        a = mapped(spec, "q", q, found, sizes, projection).values.expand(*q.shape[:-1], features)
    if needed[1] and weights.by_logarithms:
        b = torch.cat([one.values for one in apart(spec, k, found, sizes, projection, features)], -1)
    elif needed[1]:
        since = None if largest is None or not largest.numel() else largest
        if state is not None and weights.running:
            since = state[:, :, 0, v.shape[3]].to(dtype)
        made = mapped(spec, "k", k, found, sizes, projection, since)
        b, gates, running = made.values.expand(*k.shape[:-1], features), made.gates, made.last
    if state is not None and weights.running:
        state = torch.cat([state[..., : v.shape[3]], state[..., v.shape[3] + 1 :]], -1)
    steps = logarithms(spec, found, sizes, np.arange(n), q.device, features, gates) if any(needed) else None
    whole_piece: Piece = (RelativePiece if weights.by_logarithms else Piece)(
        spec, program, sizes, found, dict(inputs), of_kernels, a, b, v, scale, steps, state, seen, kept, stays,
        itself, return_state, running,
    )  # fmt: skip
    if packed is None:
        return whole_piece
    return (PackedRelativePiece if weights.by_logarithms else PackedPiece)(**vars(whole_piece), documents=packed)


Masks = tuple[Tensor | None, ...]
"""Which rows see the state, which keys are in the new one and whether the old one is; None where all are."""


def _masks(going: Carried, tokens: int, env: Mapping[str, Any]) -> Masks:
    return tuple(map(_mask, (going.seen(tokens, env), going.kept(tokens, env), going.stays(tokens, env))))


def _mask(truth: Truth) -> Tensor | None:
    return None if truth.all() else torch.from_numpy(truth.reshape(*(1,) * (3 - truth.ndim), *truth.shape).copy())


@functools.lru_cache(maxsize=64)
def _same_masks(going: Carried, tokens: int) -> Masks:
    return _masks(going, tokens, {})


@functools.lru_cache(maxsize=64)
def _wanted(program: Program) -> Wanted:
    return Wanted.of(spec_of(program))


def begins(spec: Spec, going: Carried, n: int, resumes: bool, q_start: int | None, return_state: bool) -> int:
    """After how many tokens of the sequence a call begins, which ``resumes`` if it has a state. Raises CallError."""
    cut = going.cut
    if q_start is None:
        if resumes and (cut != 1 or spec.rotations):
            why = "vectors turn by their positions" if spec.rotations else f"it may be cut after multiples of {cut}"
            raise CallError(
                f"{spec.name}: q_start must say after how many tokens of the sequence a call with a state begins: {why}"
            )
        q_start = 0
    if isinstance(q_start, bool) or not isinstance(q_start, int) or q_start < 0:
        raise CallError(f"{spec.name}: q_start is a whole number from 0 on, not {q_start!r}")
    for tokens in (q_start, *([q_start + n] if return_state else [])):
        if tokens % cut:
            states, keys = going.left(tokens)
            kept = f"{states:,} state{'s' * (states != 1)}{f' and {keys:,} keys' if keys else ''}"
            raise CallError(
                f"{spec.name}: after {tokens:,} tokens the sequence cannot be cut: it would have to keep {kept}, or "
                f"what follows depends on its position; it can be cut after multiples of {cut:,} tokens"
            )
    return q_start


def state_shape(spec: Spec, states: int, heads: int, kv_heads: int, features: int, dim_v: int) -> tuple[int, ...]:
    """(states, heads, features, dim_v and what is beside values); key heads where heads do not differ."""
    return states, heads if by_head(spec) else kv_heads, features, dim_v + spec.weights.beside_values


def _check_state(spec: Spec, state: object, shape: tuple[int, ...], of: str, device: torch.device) -> None:
    if not isinstance(state, Tensor):
        raise CallError(f"{spec.name}: state must be a tensor, not {type(state).__name__}")
    more = spec.weights.beside_values
    size = f"dim_v + {more}" if more else "dim_v"
    if tuple(state.shape) != shape or state.dtype not in (torch.float32, torch.float64):
        raise CallError(
            f"{spec.name}: state must be ({of}, heads, features, {size}) "
            f"= {shape}, float32, as return_state=True gives it; this one is {tuple(state.shape)}, {state.dtype}"
        )
    if state.device != device:
        raise CallError(f"{spec.name}: state is on {state.device}, but q is on {device}: move it there")
