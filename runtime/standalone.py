"""A module of Triton kernels as a file that runs by itself: with an example, and what dense attention gives for it."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from textwrap import wrap
from typing import Any

import torch
from torch import Tensor

from attnspec.codegen.triton import module as triton_kernel
from attnspec.codegen.triton.schedule import schedule_for
from attnspec.relation.sizes import Sizes
from attnspec.runtime import attend as around
from attnspec.runtime.core.program import Program, needed, spec
from attnspec.runtime.prepare.example import example
from attnspec.runtime.prepare.order import hash_buckets
from attnspec.runtime.triton import tables as triton_data
from attnspec.runtime.triton.module import plans
from attnspec.runtime.triton.run import given_of

SUMS = 4
"""How many weighted sums of each result are compared."""


def standalone(program: Program, sizes: Sizes, dim: int, dtype: str) -> str:
    """The text, with an example of these sizes. Queries and keys there are as the kernels get them: already rotated."""
    schedule = schedule_for(dim, 4 if dtype == "float32" else 2, sizes.n_q)
    planned = plans(program, needed(program, sizes.heads, sizes.kv_heads, sizes.batch), schedule)
    key = triton_kernel.TritonKey(dim, dim)
    wide = triton_kernel.is_wide(planned, key)
    shapes = [
        (sizes.batch, sizes.heads, sizes.n_q, dim),
        (sizes.batch, sizes.kv_heads, sizes.n, dim),
        (sizes.batch, sizes.kv_heads, sizes.n, dim),
        (sizes.batch, sizes.heads, sizes.n_q, dim),
    ]
    q, k, v, dout = (wave(shape, seed) for seed, shape in enumerate(shapes))
    bare = replace(spec(program), rotations=(), normalized=frozenset())
    inputs = example(bare, sizes, torch.Generator().manual_seed(0))
    if bare.order is not None:
        inputs["buckets"] = hash_buckets(q, bare.order)
    call = around.Around.of(bare, program.encoded).call(q.float(), k.float(), v.float(), None, inputs)[0]
    given = given_of(call, wide)
    rest = tuple(name for name in triton_kernel.given(planned, key) if name not in given)
    given |= triton_data.data(planned, rest, replace(sizes, scalars=call.scalars()), wide, torch.device("cpu"))
    expected = dict(_expected(bare, (q, k, v, dout), call.scale, inputs))
    head = [
        f"DTYPE = torch.{dtype}",
        f"SCALE = {call.scale!r}",
        f"SHAPES = {shapes!r}  # of q, k, v and the gradient of the output",
        "# What the kernels read beside these: integers, and tensors as (type, shape, zlib, base 85).",
        *_mapping("DATA", {name: _packed(value) for name, value in given.items()}),
        "# The norm of each result in float64, and weighted sums of it.",
        *_mapping("EXPECTED", {name: [repr(value)] for name, value in expected.items()}),
    ]
    return triton_kernel.module(planned, key, schedule, "\n".join(head))


def wave(shape: tuple[int, ...], seed: int) -> Tensor:
    """As in ``codegen/triton/library/main.py``."""
    at = torch.arange(math.prod(shape), dtype=torch.float64)
    return ((torch.sin(at * 12.9898 + seed * 78.233) * 43758.5453) % 1.0 * 3.4 - 1.7).view(shape)


def _expected(
    bare: Any, tensors: tuple[Tensor, Tensor, Tensor, Tensor], scale: float, inputs: Mapping[str, Tensor]
) -> Iterator[tuple[str, tuple[float, list[float]]]]:
    *leaves, dout = tensors
    q, k, v = (t.requires_grad_() for t in leaves)
    floats = {name: t.double().requires_grad_() for name, t in inputs.items() if t.is_floating_point()}
    out, lse = around.dense(bare, q, k, v, scale, {**inputs, **floats})
    names, sources = ["dq", "dk", "dv"], [q, k, v]
    read = around.score_inputs(bare)
    for name, t in floats.items():
        if name in read:
            names.append(f"din_{name}")
            sources.append(t)
    gradients = torch.autograd.grad(out, sources, dout, allow_unused=True)
    results = {"out": out.detach(), "lse": lse.detach().nan_to_num(neginf=0.0)}
    results |= {name: t for name, t in zip(names, gradients, strict=True) if t is not None}
    for name, t in results.items():
        yield (
            name,
            (
                float(t.double().norm()),
                [float((t.double() * wave(tuple(t.shape), 100 + n)).sum()) for n in range(SUMS)],
            ),
        )


def _packed(value: Tensor | float) -> list[str]:
    """The lines of a value."""
    if isinstance(value, int | float):
        return [repr(value)]
    kind = str(value.dtype).removeprefix("torch.")
    text = base64.b85encode(zlib.compress(value.contiguous().numpy().tobytes(), 9)).decode("ascii")
    lines = [repr(line) for line in wrap(text, 100)] or ['""']
    return [f"({kind!r}, {tuple(value.shape)!r},", *(f"    {line}" for line in lines[:-1]), f"    {lines[-1]})"]


def _mapping(name: str, values: Mapping[str, list[str]]) -> Iterator[str]:
    yield f"{name} = {{"
    for key, lines in values.items():
        first, *more = lines
        yield f"    {key!r}: {first}{',' if not more else ''}"
        for n, line in enumerate(more):
            yield f"    {line}{',' if n + 1 == len(more) else ''}"
    yield "}"
