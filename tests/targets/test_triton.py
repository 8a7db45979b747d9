"""Triton kernels in triton's interpreter against dense attention in float64, forward and every gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attnspec
from tests.support.oracle import agree, tensors
from tests.support.patterns import PATTERNS
from tests.support.strategies import Case, cases

pytest.importorskip("triton")

TILE = (32, 32)


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize(("n", "n_q"), [(1, 1), (64, 64), (101, 101), (90, 37), (40, 75)])
def test_patterns_and_lengths(name: str, n: int, n_q: int) -> None:
    agree(attnspec.compile(PATTERNS[name], target="triton", tile=TILE), *tensors(n, n_q, heads=4))


@pytest.mark.parametrize(("dim", "dim_v"), [(8, 8), (64, 64), (80, 96), (96, 80), (128, 40), (20, 256)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_head_sizes_and_types(dim: int, dim_v: int, dtype: torch.dtype) -> None:
    """Of the types, bfloat16 is left to a GPU: the interpreter multiplies its bits (TRITON.md)."""
    attend = attnspec.compile(PATTERNS["window"], target="triton", tile=TILE)
    agree(attend, *tensors(70, dim=dim, dim_v=dim_v, dtype=dtype))


@pytest.mark.parametrize(("heads", "kv_heads", "batch"), [(4, 2, 2), (6, 1, 1), (3, 3, 2), (4, 4, 1)])
@pytest.mark.parametrize("name", ["window", "affine head", "per head"])
def test_grouped_heads(name: str, heads: int, kv_heads: int, batch: int) -> None:
    if name == "per head" and heads > 4:
        heads, kv_heads = 4, 1
    agree(
        attnspec.compile(PATTERNS[name], target="triton", tile=TILE),
        *tensors(70, 33, heads=heads, kv_heads=kv_heads, batch=batch),
    )


def test_heads_that_share_keys_in_different_classes() -> None:
    text = "attention mixed { for h in [0, 2] { attend window(9) } for h in [1, 3] { attend k % 3 == 0 and causal } }"
    agree(attnspec.compile(text, target="triton", tile=TILE), *tensors(70, heads=4, kv_heads=2))


def test_empty_tensors() -> None:
    attend = attnspec.compile(PATTERNS["causal"], target="triton")
    for n, n_q, batch in ((0, 0, 1), (0, 5, 1), (5, 0, 1), (4, 4, 0)):
        q, k, v = tensors(n, n_q, batch=batch)
        out, lse = attend(q, k, v, return_lse=True)
        assert out.shape == (batch, 2, n_q, 16)
        if n == 0:
            assert (out == 0).all()
            assert torch.isneginf(lse).all()
        assert [g.shape for g in torch.autograd.grad(out.sum(), (q, k, v))] == [q.shape, k.shape, v.shape]


def test_strided_tensors() -> None:
    attend = attnspec.compile(PATTERNS["window"], target="triton", tile=TILE)
    base = torch.randn(2, 70, 3, 4, 16)
    q, k, v = (base[:, :, i].transpose(1, 2).requires_grad_() for i in range(3))
    agree(attend, q, k, v)
    backwards = torch.randn(2, 4, 16, 70).transpose(2, 3).requires_grad_()
    agree(attend, backwards, backwards.detach().requires_grad_(), v)


def test_large_scores() -> None:
    """Scores of tens of thousands, in which fp32 itself is only good to some thousandths."""
    attend = attnspec.compile(PATTERNS["causal"], target="triton", tile=TILE)
    agree(attend, *tensors(70, dim=64, size=5000.0), tolerance=2e-2)


def test_same_bits_as_a_second_time() -> None:
    q, k, v = tensors(100, heads=3, dim=64)
    attend = attnspec.compile(PATTERNS["both"], target="triton", tile=TILE)

    def once() -> list[torch.Tensor]:
        out, lse = attend(q, k, v, return_lse=True)
        return [out, lse, *torch.autograd.grad((out * out).sum() + lse.sum(), (q, k, v))]

    assert all(torch.equal(a, b) for a, b in zip(once(), once(), strict=True))


@settings(max_examples=max(10, settings().max_examples // 20))
@given(cases(), st.sampled_from([(16, 16), (17, 5), (80, 24)]), st.sampled_from([1, 2, 4]), st.integers(1, 2))
def test_generated_specs(case: Case, dims: tuple[int, int], kv_heads: int, batch: int) -> None:
    attend = attnspec.compile(case.text, params=case.params, target="triton", tile=TILE)
    for n, n_q in ((case.n, case.n_q), (case.n * 4 + 3, case.n_q * 3 + 1)):
        agree(attend, *tensors(n, n_q, 4, kv_heads, batch, *dims, seed=n))


def test_torch_compile() -> None:
    attend = attnspec.compile(PATTERNS["both"], target="triton", tile=TILE)
    q, k, v = tensors(70)
    whole = torch.compile(lambda *given: attend(*given), fullgraph=True)
    got, want = whole(q, k, v), attend(q, k, v)
    assert torch.equal(got, want)
    for a, b in zip(*(torch.autograd.grad(out.square().sum(), (q, k, v)) for out in (got, want)), strict=True):
        assert torch.allclose(a, b)
