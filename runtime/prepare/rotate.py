"""Rotary position embeddings: RoPE, xPos and YaRN, applied to keys before the kernel, to queries in it.

Angles are worked out in float64, so that position 1,000,000 is as exact as position 1; the turn itself is done in
float32 (float64 for float64 tensors) and rounded once to the dtype of the tensor.

C++ kernels turn a query when they load it, which they do once, where no gradients are wanted; backward reads the turned
queries, so with gradients they are turned before. Turning keys in the kernel too was measured: at every visit of a key
tile that costs arithmetic, 5 to 7 % of a causal forward pass; it would win 3 % of a window of 1,024 with as many key
heads as query heads.

Sources: RoPE: Su et al., 2021 ("pairs" layout), Llama and gpt-oss ("half" layout); xPos: Sun et al., 2022, with the
decay of torchscale's ``XPOS``; YaRN: Peng et al., 2023, with the ramp of the paper ("rotations") or that of the
published repository, Hugging Face and DeepSeek ("index").

>>> from attnspec.spec.expr import Var
>>> from attnspec.spec.parts import Rotation
>>> rope = Rotation("rope", (("theta", 10000.0), ("dims", 0), ("layout", "pairs")), Var("q"), Var("k"))
>>> rotate(torch.tensor([1.0, 0.0, 1.0, 0.0]).expand(1, 1, 2, 4), torch.arange(2), rope, "q")[0, 0]
tensor([[1.0000, 0.0000, 1.0000, 0.0000],
        [0.5403, 0.8415, 0.9999, 0.0100]])
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.device import capturing, on_device
from attnspec.runtime.core.visible import everything, visible
from attnspec.runtime.cpp.turn import turn, turns
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.evaluate import table, value_of
from attnspec.spec.parts import Rotation
from attnspec.spec.spec import Spec

ROWS = 4096
"""Rows that are turned at a time: what is in between stays in the cache of the processor."""
LARGEST_CACHED = 1 << 22
"""Tables with more entries than this are not kept: sixteen of them hold 256 MiB at most."""
REACH = {torch.float16: 12.0, torch.bfloat16: 120.0, torch.float32: 120.0, torch.float64: 1000.0}
"""By how many powers of two xPos may scale a vector of each dtype up or down."""


def rotate(
    x: Tensor,
    positions: Tensor | range,
    rotation: Rotation,
    side: str,
    centre: float = 0.0,
    compiled: bool = False,
) -> Tensor:
    """The vectors of ``x`` (batch, heads, n, dim), turned by their positions; same shape and dtype, differentiable.

    ``positions`` are integers, (n,), (batch, n) or (batch, heads, n), or a range of n. ``side`` is ``"q"`` or ``"k"``:
    xPos shrinks the one and stretches the other, around the position ``centre``, which must be the same for both sides
    (scores do not depend on it; it keeps the numbers in the range of their dtype). ``compiled`` is for the C++ routine
    where it can be used: float32, bfloat16 and float16 on the CPU, unless torch.compile traces.

    Raises CallError where the head size does not fit the rotation, or positions are too far from the centre for xPos;
    with ``compiled``, CompilerError without a C++ compiler.
    """
    cos, sin, pairs = angles(x, positions, rotation, side, centre)
    if not visible(x):
        return _turn_whole(x, cos, sin, pairs)
    if compiled and turns(x):
        return turn(x, cos, sin, pairs)
    return _Turn.apply(x, cos, sin, pairs)  # type: ignore[no-any-return, no-untyped-call]


def angles(
    x: Tensor, positions: Tensor | range, rotation: Rotation, side: str, centre: float = 0.0
) -> tuple[Tensor, Tensor, bool]:
    """The tables by which :func:`rotate` turns ``x``, and whether neighbouring dimensions are its pairs."""
    dims = rotated_dims(rotation, x.shape[-1])
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if rotation.kind == "xpos":
        _check_reach(rotation, positions, centre, x.dtype)
    # Tensors of other types (fake ones, say) must not reach the cache.
    if visible(x) and isinstance(positions, range) and len(positions) * dims <= LARGEST_CACHED:
        # Only xPos has tables of each side.
        own = side if rotation.kind == "xpos" else "q"
        try:
            cos, sin = _cached(rotation, positions, dims, own, centre, dtype, x.device)
        except _NotKept:
            cos, sin = tables(rotation, positions, dims, own, centre, dtype, x.device)
    else:
        cos, sin = tables(rotation, positions, dims, side, centre, dtype, x.device)
    return cos, sin, dict(rotation.options).get("layout", "half") == "pairs"


def turned(
    spec: Spec,
    q: Tensor,
    k: Tensor,
    sizes: Sizes,
    inputs: Mapping[str, Tensor] | None = None,
    compiled: bool = False,
) -> tuple[Tensor, Tensor]:
    """The queries and keys whose dot products are the scores: normalized, then rotated as the spec says.

    q is (batch, heads, n_q, dim), k (batch, kv_heads, n, dim); ``inputs`` are those that rotations read positions from,
    with what is derived from them (``doc.first``), as :func:`attnspec.runtime.prepare.inputs.prepare` makes them.
    ``compiled`` is that of :func:`rotate`.
    """
    q, k = units(spec, q, k)
    for rotation in spec.rotations:
        at_q, at_k, centre = _places(spec, rotation, q, k, sizes, inputs or {})
        q = rotate(q, at_q, rotation, "q", centre, compiled)
        k = rotate(k, at_k, rotation, "k", centre, compiled)
    return q, k


def half_turned(
    spec: Spec, q: Tensor, k: Tensor, sizes: Sizes, inputs: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, bool]]:
    """As :func:`turned` with a single rotation, but the queries are not turned yet: with the tables to do it."""
    (rotation,) = spec.rotations
    q, k = units(spec, q, k)
    at_q, at_k, centre = _places(spec, rotation, q, k, sizes, inputs)
    return q, rotate(k, at_k, rotation, "k", centre, True), angles(q, at_q, rotation, "q", centre)


def rotation_tables(spec: Spec, q: Tensor, k: Tensor, sizes: Sizes, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Cosines and sines for queries, then for keys, of each rotation of a spec."""
    found: list[Tensor] = []
    for rotation in spec.rotations:
        at_q, at_k, centre = _places(spec, rotation, q, k, sizes, inputs)
        for x, at, side in ((q, at_q, "q"), (k, at_k, "k")):
            found += angles(x, at, rotation, side, centre)[:2]
    return found


def turned_by(spec: Spec, q: Tensor, k: Tensor, found: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """As :func:`turned`, by the tables that :func:`rotation_tables` gives, in operations that a compiler can fuse."""
    q, k = units(spec, q, k)
    for i, rotation in enumerate(spec.rotations):
        pairs = dict(rotation.options).get("layout", "half") == "pairs"
        q = _turn_whole(q, found[4 * i], found[4 * i + 1], pairs)
        k = _turn_whole(k, found[4 * i + 2], found[4 * i + 3], pairs)
    return q, k


def units(spec: Spec, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys, those of length one that a spec normalizes."""
    q, k = (_unit(x) if name in spec.normalized else x for name, x in (("q", q), ("k", k)))
    return q, k


def _places(
    spec: Spec, rotation: Rotation, q: Tensor, k: Tensor, sizes: Sizes, inputs: Mapping[str, Tensor]
) -> tuple[Tensor | range, Tensor | range, float]:
    """The positions of both sides, and the centre of xPos."""
    at_q, at_k = places(rotation.q, "q", sizes, inputs), places(rotation.k, "k", sizes, inputs)
    for name, x, at in (("q", q, at_q), ("k", k, at_k)):
        if isinstance(at, Tensor) and at.dim() == 3 and x.shape[1] not in (at.shape[1], 1):
            raise CallError(f"{spec.name}: {name} turns by positions that differ by head, but heads are shared")
    return at_q, at_k, _centre(at_q, at_k) if rotation.kind == "xpos" else 0.0


def places(expr: e.IntExpr, side: str, sizes: Sizes, inputs: Mapping[str, Tensor]) -> Tensor | range:
    """The positions by which the vectors of a side turn: a range where nothing changed them, else int64.

    (n,), or (batch, n) where they differ by batch entry, or (batch or 1, heads, n) where they differ by head. A
    position that has no value (a read outside an input) is 0.
    """
    rows = range(sizes.first, sizes.first + sizes.n_q) if side == "q" else range(sizes.n)
    if expr == e.Var(side):
        return rows
    names, device = contents.free(expr), None
    reads = [inputs[node.name] for node in contents.walk(expr) if isinstance(node, (e.Read, e.Flag, e.Among))]
    if reads and (not visible(*reads) or any(t.device.type != "cpu" for t in reads)):
        return places_on_device(expr, side, sizes, inputs)
    env: dict[str, Any] = {**sizes.parameters(0, 0), side: np.arange(rows.start, rows.stop)}
    if "b" in names:
        env["b"] = np.arange(sizes.batch).reshape((-1, 1, 1) if "h" in names else (-1, 1))
    if "h" in names:
        env["h"] = np.arange(sizes.heads)[:, None]
    for node in contents.walk(expr):
        if isinstance(node, (e.Read, e.Flag, e.Among)):
            env[table(node.name)] = inputs[node.name].numpy(force=True)
            device = inputs[node.name].device
    value, known = value_of(expr, env)
    at = torch.from_numpy(np.where(known, value, 0).astype(np.int64))
    shape = [*([1] if at.dim() < 3 and "h" in names else []), *at.shape]
    return at.view(shape).expand(*shape[:-1], len(rows)).to(device or "cpu")


def places_on_device(expr: e.IntExpr, side: str, sizes: Sizes, inputs: Mapping[str, Tensor]) -> Tensor:
    """The same in torch operations, without waiting for the device that the inputs are on."""
    from attnspec.runtime.expressions.functions import index_function

    names = contents.free(expr)
    device = next(
        inputs[node.name].device for node in contents.walk(expr) if isinstance(node, (e.Read, e.Flag, e.Among))
    )
    first, count = (sizes.first, sizes.n_q) if side == "q" else (0, sizes.n)
    rows = torch.arange(first, first + count, device=device)
    heads = torch.arange(sizes.heads, device=device)[:, None]
    entries = torch.arange(sizes.batch, device=device).view((-1, 1, 1) if "h" in names else (-1, 1))
    at: Tensor = index_function(expr, sizes, inputs)(entries, heads, rows, rows).long()
    return at[None] if "h" in names and at.dim() < 3 else at


def _unit(x: Tensor) -> Tensor:
    """Vectors of length one; a zero vector stays zero."""
    wide = x if x.dtype == torch.float64 else x.float()
    return torch.nn.functional.normalize(wide, dim=-1).to(x.dtype)


def _centre(*places: Tensor | range) -> float:
    """The middle of all positions."""
    ends = [end for at in places if len(at) and isinstance(at, range) for end in (at[0], at[-1])]
    ends += [end for at in places if isinstance(at, Tensor) for end in _ends(at)]
    return (min(ends) + max(ends)) / 2 if ends else 0.0


def rotated_dims(rotation: Rotation, dim: int) -> int:
    """How many of the leading dimensions of a head are turned; raises CallError where the head cannot be."""
    options = dict(rotation.options)
    dims = int(options.get("dims", 0)) or dim
    if dims > dim:
        raise CallError(f"rotate {rotation.kind}: {dims} dimensions are to be turned, but the head size is {dim}")
    if dims % 2:
        raise CallError(f"rotate {rotation.kind}: {dims} dimensions cannot be turned in pairs; the number must be even")
    return dims


def frequencies(rotation: Rotation, dims: int) -> Tensor:
    """The angle by which each pair of dimensions turns from one position to the next, (dims / 2,), float64."""
    options: dict[str, Any] = dict(rotation.options)
    base = float(options["theta"])
    plain = torch.pow(base, -torch.arange(0, dims, 2, dtype=torch.float64) / dims)
    if rotation.kind != "yarn":
        return plain
    length, fast, slow = float(options["original"]), float(options["beta_fast"]), float(options["beta_slow"])
    if options["ramp"] == "rotations":
        # The paper: by how often a pair turns within the original length.
        turns = length * plain / (2 * math.pi)
        keep = (turns >= slow).double() if fast == slow else ((turns - slow) / (fast - slow)).clamp(0.0, 1.0)
    else:
        # The repository: by the index of the pair, between those that turn `fast` and `slow` times.
        low, high = (dims * math.log(length / (r * 2 * math.pi)) / (2 * math.log(base)) for r in (fast, slow))
        if options["truncate"]:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dims - 1)
        high = high + 0.001 if low == high else high
        keep = 1.0 - ((torch.arange(dims // 2, dtype=torch.float64) - low) / (high - low)).clamp(0.0, 1.0)
    return plain * keep + plain / float(options["factor"]) * (1.0 - keep)


def magnitude(rotation: Rotation) -> float:
    """The factor on both queries and keys: YaRN's ``temperature``, by default ``0.1 ln(factor) + 1``."""
    return float(dict(rotation.options).get("temperature", 1.0))


def tables(
    rotation: Rotation,
    positions: Tensor | range,
    dims: int,
    side: str,
    centre: float = 0.0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Cosines and sines, times the magnitude of the rotation, as ``dtype``.

    (n, dims / 2), (batch, 1, n, dims / 2) or (batch, heads, n, dims / 2), after the shape of ``positions``.
    """
    if isinstance(positions, range):
        places = torch.arange(positions.start, positions.stop, positions.step, dtype=torch.float64, device=device)
    else:
        places = positions.to(device=device, dtype=torch.float64)
        places = places[:, None] if places.dim() == 2 else places
    angles = places[..., None] * on_device(frequencies, rotation, dims, device=device)
    cos, sin = angles.cos(), angles.sin()
    if rotation.kind == "xpos":
        sign = 1.0 if side == "q" else -1.0
        scale = torch.exp2(places[..., None].sub(centre).mul(sign) * on_device(_decay, rotation, dims, device=device))
        cos, sin = cos * scale, sin * scale
    factor = magnitude(rotation)
    return (cos * factor).to(dtype), (sin * factor).to(dtype)


class _NotKept(Exception):
    """A table would hold numbers only when a graph that is being captured is replayed."""


@lru_cache(maxsize=16)
def _cached(*arguments: Any) -> tuple[Tensor, Tensor]:
    if capturing():
        raise _NotKept
    with torch.inference_mode(False):  # what is kept may later be needed for gradients
        return tables(*arguments)


def _decay(rotation: Rotation, dims: int) -> Tensor:
    """By how many powers of two each pair shrinks from one position to the next, (dims / 2,), float64: at most 0."""
    base = dict(rotation.options)["scale_base"]
    return torch.log2((torch.arange(0, dims, 2, dtype=torch.float64) / dims + 0.4) / 1.4) / float(base)


def _ends(positions: Tensor) -> list[int]:
    """The least and the largest position, over all that vmap maps; none where they cannot be looked at."""
    if torch.compiler.is_compiling() or capturing():
        return []
    positions = everything(positions)
    if type(positions) is not Tensor or positions.device.type == "meta" or not positions.numel():
        return []
    return [int(end) for end in torch.aminmax(positions)]


def _check_reach(rotation: Rotation, positions: Tensor | range, centre: float, dtype: torch.dtype) -> None:
    """Refuse positions so far from the centre that xPos would overflow, where they can be looked at."""
    if isinstance(positions, range):
        ends = [positions[0], positions[-1]] if len(positions) else []
    else:
        ends = _ends(positions)
    base = float(dict(rotation.options)["scale_base"])
    reach = REACH[dtype] * base / -math.log2(0.4 / 1.4)
    if any(abs(end - centre) > reach for end in ends):
        raise CallError(
            f"rotate xpos: positions {min(ends):,} to {max(ends):,} with scale_base = {base:g} leave the range of "
            f"{str(dtype).removeprefix('torch.')}, which holds {int(2 * reach):,} positions. A larger scale_base "
            "decays more slowly"
        )


class _Turn(torch.autograd.Function):
    """``turn`` in torch operations: any dtype and device. Works through the rows in pieces, keeps only the tables."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, pairs: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.pairs = pairs
        out = torch.empty_like(x)
        dims = 2 * cos.shape[-1]
        out[..., dims:] = x[..., dims:]
        for start in range(0, x.shape[-2], ROWS):
            rows = slice(start, start + ROWS)
            c, s = cos[..., rows, :], sin[..., rows, :]
            (a, b), (first, second) = (_split(t[..., rows, :], dims, pairs) for t in (x, out))
            a, b = a.to(cos.dtype), b.to(cos.dtype)
            turned = a * c
            first.copy_(turned.addcmul_(b, s, value=-1.0))
            torch.mul(b, c, out=turned)
            second.copy_(turned.addcmul_(a, s))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _Turn.apply(gradients[0], cos, -sin, ctx.pairs), None, None, None  # type: ignore[no-untyped-call]


def _split(x: Tensor, dims: int, pairs: bool) -> tuple[Tensor, Tensor]:
    """The two members of each pair, (..., dims / 2) views."""
    if pairs:
        return x[..., 0:dims:2], x[..., 1:dims:2]
    return x[..., : dims // 2], x[..., dims // 2 : dims]


def _turn_whole(x: Tensor, cos: Tensor, sin: Tensor, pairs: bool) -> Tensor:
    """What _Turn computes, in terms that a compiler can fuse."""
    dims = 2 * cos.shape[-1]
    a, b = (t.to(cos.dtype) for t in _split(x, dims, pairs))
    first, second = (a * cos - b * sin).to(x.dtype), (b * cos + a * sin).to(x.dtype)
    turned = torch.stack((first, second), dim=-1).flatten(-2) if pairs else torch.cat((first, second), dim=-1)
    return turned if dims == x.shape[-1] else torch.cat((turned, x[..., dims:]), dim=-1)
