"""Sums over features against the dense formula in float64, and compiled patterns against their dense meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import attnspec
from attnspec.runtime.attention import Attention
from attnspec.runtime.core.request import Call
from attnspec.runtime.linear.sums import Given, gradients, sums
from tests.support.oracle import close

# Largest error by dtype, of output and sums, and of gradients: of the largest exact value.
TOLERANCE = {torch.float32: (2e-5, 1e-4), torch.bfloat16: (2e-2, 3e-2), torch.float16: (3e-3, 6e-3)}


def features(
    n: int,
    n_q: int | None = None,
    heads: int = 2,
    kv_heads: int | None = None,
    batch: int = 1,
    dim: int = 16,
    dim_v: int = 24,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Positive features a and b, and values."""
    generator = torch.Generator().manual_seed(seed)
    kv_heads = kv_heads or heads
    a = torch.rand((batch, heads, n if n_q is None else n_q, dim), generator=generator) + 0.1
    b = torch.rand((batch, kv_heads, n, dim), generator=generator) + 0.1
    v = torch.randn((batch, kv_heads, n, dim_v), generator=generator)
    return tuple(t.to(dtype) for t in (a, b, v))  # type: ignore[return-value]


def dense(
    attend: Attention, a: Tensor, b: Tensor, v: Tensor, scale: float, inputs: Mapping[str, Tensor], divide: bool
) -> tuple[Tensor, Tensor]:
    """Output and sums of weights by the formula."""
    arrays = {name: t.numpy() for name, t in inputs.items()}
    sizes = (b.shape[2], a.shape[2], a.shape[1], a.shape[0], b.shape[1])
    counts = torch.from_numpy(attend.spec.mask(*sizes, inputs=arrays)).double()
    b, v = (t.repeat_interleave(a.shape[1] // b.shape[1], 1) for t in (b, v))
    weights = scale * counts * (a @ b.transpose(-1, -2))
    total = weights.sum(-1)
    divisor = torch.where(total == 0, float("inf"), total) if divide else torch.ones_like(total)
    return weights @ v / divisor[..., None], total


def agree(
    attend: Attention,
    a: Tensor,
    b: Tensor,
    v: Tensor,
    scale: float = 1.0,
    inputs: Mapping[str, Tensor] | None = None,
    divides: tuple[bool, ...] = (False, True),
) -> None:
    """Assert that output, sums of weights and all gradients agree with the formula."""
    given = dict(inputs or {})
    exact = [t.detach().double().requires_grad_() for t in (a, b, v)]
    out_error, gradient_error = TOLERANCE[v.dtype]
    for divide in divides:
        call = Given(Call(a, b, v, list(given.values()), None, None, scale, attend.program.encoded))
        found = sums(call, True, divide)
        out, total, _ = found
        assert total is not None
        assert (out.dtype, total.dtype) == (v.dtype, torch.float32)
        want = dense(attend, *exact, scale, given, divide)
        close("out", out, want[0], out_error)
        close("total", total, want[1], out_error)
        generator = torch.Generator().manual_seed(1)
        d_out = torch.randn(out.shape, generator=generator).to(v.dtype)
        d_total = torch.randn(total.shape, generator=generator)
        got = gradients(call, found, divide, d_out, d_total)[:3]
        wanted = torch.autograd.grad(want, exact, (d_out.double(), d_total.double()))
        for name, x, y, t in zip(("da", "db", "dv"), got, wanted, (a, b, v), strict=True):
            assert x.dtype == t.dtype
            close(name, x, y, gradient_error)


def as_dense(
    text: str, q: Tensor, k: Tensor, v: Tensor, inputs: Mapping[str, Tensor] | None = None, return_lse: bool = False
) -> None:
    """Assert that output and all gradients are those of the dense meaning."""
    given = {name: t.clone().requires_grad_(t.is_floating_point()) for name, t in (inputs or {}).items()}
    exact = {name: t.detach().double().requires_grad_() if t.requires_grad else t for name, t in given.items()}
    vectors = [t.detach().double().requires_grad_() for t in (q, k, v)]
    got: Any = attnspec.compile(text, target="cpp")(q, k, v, return_lse=return_lse, inputs=given)
    want: Any = attnspec.compile(text, target="dense")(*vectors, return_lse=return_lse, inputs=exact)
    got, want = (x if return_lse else (x,) for x in (got, want))
    out_error, gradient_error = TOLERANCE[q.dtype]
    for name, x, y in zip(("out", "lse"), got, want, strict=False):
        close(name, x.nan_to_num(neginf=0.0), y.nan_to_num(neginf=0.0), out_error)
    generator = torch.Generator().manual_seed(3)
    up = [torch.randn(x.shape, generator=generator).masked_fill(x.isinf(), 0.0) for x in got]
    floats = [name for name, t in given.items() if t.requires_grad]
    sources = ([q, k, v, *(given[name] for name in floats)], [*vectors, *(exact[name] for name in floats)])
    found, wanted = (
        torch.autograd.grad(x, s, [d.to(y.dtype) for d, y in zip(up, x, strict=True)], materialize_grads=True)
        for x, s in zip((got, want), sources, strict=True)
    )
    for name, x, y, source in zip(("dq", "dk", "dv", *floats), found, wanted, sources[0], strict=True):
        assert x.dtype == source.dtype
        close(name, x, y, gradient_error)
