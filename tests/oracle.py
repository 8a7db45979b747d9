"""Kernels against dense attention in float64: one comparison for all kernel tests."""

from __future__ import annotations

import torch
from torch import Tensor

from attnspec.runtime.attention import Attention
from attnspec.runtime.dense import dense_attention

# Largest error by dtype: absolute below 1, relative to the largest exact value above.
TOLERANCE = {torch.float32: 3e-5, torch.bfloat16: 4e-2, torch.float16: 6e-3}


def tensors(
    n: int,
    n_q: int | None = None,
    heads: int = 2,
    kv_heads: int | None = None,
    batch: int = 1,
    dim: int = 16,
    dim_v: int | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    size: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Random q, k, v that ask for gradients."""
    n_q, kv_heads, dim_v = n if n_q is None else n_q, kv_heads or heads, dim if dim_v is None else dim_v
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, heads, n_q, dim), (batch, kv_heads, n, dim), (batch, kv_heads, n, dim_v))
    q, k, v = (torch.randn(s, generator=generator) for s in shapes)
    return tuple(t.to(dtype).requires_grad_() for t in (q * size, k, v))  # type: ignore[return-value]


def agree(
    attend: Attention, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, tolerance: float | None = None
) -> None:
    """Assert that output, log-sum-exp and all gradients (of both results) agree with the oracle."""
    mask = attend.mask(k.shape[2], q.shape[2], q.shape[1], q.shape[0], k.shape[1])
    exact = [t.detach().double().requires_grad_() for t in (q, k, v)]
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    want_out, want_lse = dense_attention(*exact, mask, factor)
    got_out, got_lse = attend(q, k, v, scale=scale, return_lse=True)
    assert got_out.dtype == q.dtype
    assert got_out.shape == want_out.shape
    assert got_lse.dtype == torch.float32
    tolerance = TOLERANCE[q.dtype] if tolerance is None else tolerance
    empty = torch.isinf(want_lse)
    assert torch.equal(torch.isinf(got_lse), empty), "the empty rows differ"
    close("lse", got_lse.masked_fill(empty, 0.0), want_lse.masked_fill(empty, 0.0), tolerance)
    close("out", got_out, want_out, tolerance)
    generator = torch.Generator().manual_seed(1)
    d_out = torch.randn(got_out.shape, generator=generator).to(q.dtype)
    d_lse = torch.randn(got_lse.shape, generator=generator).masked_fill(empty, 0.0)
    got = torch.autograd.grad((got_out, got_lse), (q, k, v), (d_out, d_lse))
    safe = want_lse.masked_fill(empty, 0.0)
    want = torch.autograd.grad((want_out, safe), exact, (d_out.double(), d_lse.double()))
    for name, a, b in zip(("dq", "dk", "dv"), got, want, strict=True):
        assert a.dtype == q.dtype
        close(name, a, b, tolerance)


def close(name: str, got: Tensor, want: Tensor, tolerance: float) -> None:
    """Assert that two results agree."""
    if not got.numel():
        return
    assert not torch.isnan(got).any(), f"{name} has NaN"
    error = float((got.detach().double() - want.detach()).abs().max())
    bound = tolerance * max(1.0, float(want.detach().abs().max()))
    assert error <= bound, f"{name}: error {error:.2e} is over {bound:.2e}"
