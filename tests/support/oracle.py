"""Kernels against dense attention in float64: one comparison for all kernel tests."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from attnspec.runtime import attend as around
from attnspec.runtime.attention import Attention

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
    attend: Attention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    tolerance: float | None = None,
    inputs: Mapping[str, Tensor] | None = None,
) -> None:
    """Assert that output, log-sum-exp and all gradients (of both results) agree with the oracle.

    A mixture by given shares has no log-sum-exp: sums of its outputs stand for it.
    """
    given, shared = dict(inputs or {}), attend.spec.shared
    if shared:
        got_out = attend(q, k, v, scale=scale, **given)
        got_lse = got_out.float().sum(-1)
    else:
        got_out, got_lse = attend(q, k, v, scale=scale, return_lse=True, **given)
    assert got_out.dtype == q.dtype
    assert got_out.shape == (*q.shape[:3], v.shape[3])
    assert got_lse.dtype == torch.float32
    exact = [t.detach().double().requires_grad_() for t in (q, k, v)]
    exact_inputs = {name: _exact(t) for name, t in given.items()}
    want_out, want_lse = around.dense(attend.spec, exact[0], exact[1], exact[2], scale, exact_inputs)
    want_lse = want_out.sum(-1) if shared else want_lse
    tolerance = TOLERANCE[q.dtype] if tolerance is None else tolerance
    empty = torch.isinf(want_lse)
    assert torch.equal(torch.isinf(got_lse), empty), "the empty rows differ"
    close("lse", got_lse.masked_fill(empty, 0.0), want_lse.masked_fill(empty, 0.0), tolerance)
    close("out", got_out, want_out, tolerance)
    generator = torch.Generator().manual_seed(1)
    d_out = torch.randn(got_out.shape, generator=generator).to(q.device, q.dtype)
    d_lse = torch.randn(got_lse.shape, generator=generator).to(q.device).masked_fill(empty, 0.0)
    trained = [name for name, t in given.items() if t.requires_grad]
    leaves = (q, k, v, *(given[name] for name in trained))  # some of which a call of this length may not read
    got = torch.autograd.grad((got_out, got_lse), leaves, (d_out, d_lse), materialize_grads=True)
    safe = want_lse.masked_fill(empty, 0.0)
    sources = (*exact, *(exact_inputs[name] for name in trained))
    want = torch.autograd.grad((want_out, safe), sources, (d_out.double(), d_lse), materialize_grads=True)
    for name, a, b in zip(("dq", "dk", "dv", *trained), got, want, strict=True):
        assert a.dtype == (q.dtype if name in ("dq", "dk", "dv") else given[name].dtype)
        close(name, a, b, tolerance)


def _exact(t: Tensor) -> Tensor:
    if not t.is_floating_point():
        return t
    return t.detach().double().requires_grad_(t.requires_grad)


def close(name: str, got: Tensor, want: Tensor, tolerance: float) -> None:
    """Assert that two results agree."""
    if not got.numel():
        return
    assert not torch.isnan(got).any(), f"{name} has NaN"
    error = float((got.detach().double() - want.detach()).abs().max())
    bound = tolerance * max(1.0, float(want.detach().abs().max()))
    assert error <= bound, f"{name}: error {error:.2e} is over {bound:.2e}"
