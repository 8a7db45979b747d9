"""The custom operators under the rest of PyTorch: compile, export, autocast, checkpointing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import attnspec
from attnspec.runtime import operators as operator
from tests.support.oracle import tensors


def test_opcheck() -> None:
    attend = attnspec.compile("causal")
    program = attend.program.encoded
    for n, n_q, heads, kv_heads in ((30, 30, 2, 2), (30, 7, 4, 2)):
        q, k, v = tensors(n, n_q, heads=heads, kv_heads=kv_heads, dim_v=24)
        torch.library.opcheck(operator.attend_bare, (q, k, v, None, None, 0.25, program, True))
        with torch.no_grad():
            out, lse, norm, parts = operator.attend_bare(q, k, v, None, None, 0.25, program, True)
        given = (torch.randn_like(out), torch.randn_like(lse))
        arguments: tuple[Any, ...] = (q, k, v, None, None, 0.25, program, out, lse, norm, parts, *given)
        detached = tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in arguments)
        torch.library.opcheck(operator.attend_bare_backward, detached)


@pytest.mark.slow
def test_opcheck_of_several_passes() -> None:
    """A mixture whose branches are kept apart, in layouts of their own."""
    text = "attention a { mix (w, r) in [(64, 1), (512, 4)] weights detached { attend dilated(w, r) } }"
    attend = attnspec.compile(text)
    program = attend.program.encoded
    q, k, v = tensors(30, 20, heads=4, kv_heads=2, dim_v=24)
    torch.library.opcheck(operator.attend_bare, (q, k, v, None, None, 0.25, program, True))
    with torch.no_grad():
        out, lse, norm, parts = operator.attend_bare(q, k, v, None, None, 0.25, program, True)
    assert parts.shape == (2, *out.shape)
    *_, none = operator.attend_bare(q.detach(), k.detach(), v.detach(), None, None, 0.25, program, False)
    assert not none.numel()
    given = (torch.randn_like(out), torch.randn_like(lse))
    arguments: tuple[Any, ...] = (q, k, v, None, None, 0.25, program, out, lse, norm, parts, *given)
    detached = tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in arguments)
    torch.library.opcheck(operator.attend_bare_backward, detached)


@pytest.mark.slow  # test_traced has quick ones
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_without_graph_breaks(dynamic: bool) -> None:
    attend = attnspec.compile("window", width=20)

    @torch.compile(fullgraph=True, dynamic=dynamic)
    def layer(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out, lse = attend(q * 2, k, v, return_lse=True)
        return torch.nn.functional.gelu(out) + lse[..., None]

    for n in (40, 55):
        q, k, v = tensors(n)
        got = layer(q, k, v)
        out, lse = attend(q * 2, k, v, return_lse=True)
        want = torch.nn.functional.gelu(out) + lse[..., None]
        torch.testing.assert_close(got, want)
        for a, b in zip(
            torch.autograd.grad(got.sum(), (q, k, v)), torch.autograd.grad(want.sum(), (q, k, v)), strict=True
        ):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_export() -> None:
    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend = attnspec.compile("window", width=20)

        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return self.attend(q, k, v)

    q, k, v = (t.detach() for t in tensors(40))
    program = torch.export.export(Layer(), (q, k, v))
    torch.testing.assert_close(program.module()(q, k, v), Layer()(q, k, v))


def test_autocast_casts_as_sdpa_does() -> None:
    q, k, v = tensors(40)
    attend = attnspec.compile("causal")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attend(q, k, v)
        peer = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert out.dtype == peer.dtype == torch.bfloat16
    out.float().sum().backward()  # type: ignore[no-untyped-call]
    assert q.grad is not None
    assert q.grad.dtype == torch.float32


def test_checkpointing_gives_the_same_gradients() -> None:
    attend = attnspec.compile("causal")
    q, k, v = tensors(60)
    plain = torch.autograd.grad(attend(q, k, v).square().sum(), (q, k, v))
    kept = checkpoint(lambda *t: attend(*t), q, k, v, use_reentrant=False)
    again = torch.autograd.grad(kept.square().sum(), (q, k, v))
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_second_derivatives_are_refused() -> None:
    q, k, v = tensors(20)
    (dq,) = torch.autograd.grad(attnspec.compile("causal")(q, k, v).sum(), q, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        dq.sum().backward()  # type: ignore[no-untyped-call]


def test_only_some_gradients_are_asked_for() -> None:
    q, k, v = tensors(30)
    attend = attnspec.compile("causal")
    (only,) = torch.autograd.grad(attend(q, k.detach(), v.detach()).sum(), q)
    everything = torch.autograd.grad(attend(q, k, v).sum(), (q, k, v))
    assert torch.equal(only, everything[0])
    _, lse = attend(q, k, v, return_lse=True)
    dq, dk, dv = torch.autograd.grad(lse.sum(), (q, k, v), allow_unused=True)
    assert dv is None or not dv.any()
    assert dq.any()
    assert dk.any()


def test_dense_target_is_the_same_function() -> None:
    q, k, v = tensors(50, 20, heads=4, kv_heads=2)
    for name in ("longformer", "causal"):
        a, a_lse = attnspec.compile(name)(q, k, v, return_lse=True)
        b, b_lse = attnspec.compile(name, target="dense")(q, k, v, return_lse=True)
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(a_lse, b_lse, atol=1e-5, rtol=1e-5)
