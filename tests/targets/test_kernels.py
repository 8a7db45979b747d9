"""The C++ kernels against dense attention in float64, forward and every gradient."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import attnspec
from tests.support.oracle import agree, tensors
from tests.support.patterns import PATTERNS


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize(("n", "n_q"), [(1, 1), (7, 7), (64, 64), (200, 200), (333, 70), (130, 1), (40, 150)])
def test_patterns_and_lengths(name: str, n: int, n_q: int) -> None:
    agree(attnspec.compile(PATTERNS[name]), *tensors(n, n_q, heads=4))


@pytest.mark.parametrize("dim", [1, 8, 17, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_head_sizes_and_types(dim: int, dtype: torch.dtype) -> None:
    agree(attnspec.compile(PATTERNS["window"]), *tensors(150, dim=dim, dtype=dtype))


@pytest.mark.parametrize(("dim", "dim_v"), [(16, 40), (64, 17), (8, 256), (192, 128)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_size_differs(dim: int, dim_v: int, dtype: torch.dtype) -> None:
    agree(attnspec.compile(PATTERNS["both"]), *tensors(130, dim=dim, dim_v=dim_v, dtype=dtype))


@pytest.mark.parametrize(("heads", "kv_heads", "batch"), [(4, 2, 1), (6, 1, 2), (3, 3, 5), (1, 1, 3), (8, 2, 2)])
@pytest.mark.parametrize("threads", [1, 2])
def test_grouped_heads_batches_and_threads(heads: int, kv_heads: int, batch: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        agree(attnspec.compile(PATTERNS["window"]), *tensors(150, heads=heads, kv_heads=kv_heads, batch=batch))
        agree(attnspec.compile(PATTERNS["affine head"]), *tensors(90, 33, heads=heads, kv_heads=kv_heads, batch=batch))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("scale", [1.0, 0.0, -0.5, 3.0])
def test_scale(scale: float) -> None:
    agree(attnspec.compile(PATTERNS["causal"]), *tensors(100), scale=scale)


def test_large_scores() -> None:
    """Scores of tens of thousands, in which fp32 itself is only good to some thousandths."""
    agree(attnspec.compile(PATTERNS["causal"]), *tensors(150, dim=64, size=5000.0), tolerance=2e-2)


def test_strided_tensors_are_read_in_place() -> None:
    """(batch, length, heads, dim) storage, a slice of a fused projection, a transposed and an expanded tensor."""
    attend = attnspec.compile(PATTERNS["window"])
    base = torch.randn(2, 120, 3, 4, 16)
    q, k, v = (base[:, :, i].transpose(1, 2).requires_grad_() for i in range(3))
    agree(attend, q, k, v)
    backwards = torch.randn(2, 4, 16, 120).transpose(2, 3).requires_grad_()
    agree(attend, backwards, backwards.detach().requires_grad_(), v)
    shared = torch.randn(1, 1, 120, 16).expand(2, 4, 120, 16).requires_grad_()
    agree(attend, q, shared, v)


def test_gradient_of_an_expanded_output() -> None:
    """``out.sum().backward()`` hands down a gradient with stride 0."""
    q, k, v = tensors(100)
    attend = attnspec.compile(PATTERNS["causal"])
    expanded = torch.autograd.grad(attend(q, k, v).sum(), (q, k, v))
    plain = torch.autograd.grad(attend(q, k, v), (q, k, v), torch.ones(1, 2, 100, 16))
    assert all(torch.equal(a, b) for a, b in zip(expanded, plain, strict=True))


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_same_bits_twice(heads: int) -> None:
    q, k, v = tensors(700, heads=heads, dim=64)
    attend = attnspec.compile(PATTERNS["both"])

    def once() -> list[torch.Tensor]:
        out, lse = attend(q, k, v, return_lse=True)
        return [out, lse, *torch.autograd.grad((out * out).sum() + lse.sum(), (q, k, v))]

    first = once()
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(first, once(), strict=True))


def test_nan_reaches_the_rows_that_see_it_and_no_others() -> None:
    q, k, v = tensors(200)
    attend = attnspec.compile(PATTERNS["window"])
    with torch.no_grad():
        k[0, 0, 100, 3] = float("nan")
        out = attend(q, k, v)
    seen = torch.zeros(200, dtype=torch.bool)
    seen[100:150] = True
    assert torch.equal(torch.isnan(out[0, 0]).any(-1), seen)
    assert not torch.isnan(out[0, 1]).any()


def test_empty_tensors() -> None:
    attend = attnspec.compile(PATTERNS["causal"])
    for n, n_q, batch in ((0, 0, 1), (0, 5, 1), (5, 0, 1), (4, 4, 0)):
        q, k, v = tensors(n, n_q, batch=batch)
        out, lse = attend(q, k, v, return_lse=True)
        assert out.shape == (batch, 2, n_q, 16)
        assert lse.shape == (batch, 2, n_q)
        if n == 0:
            assert (out == 0).all()
            assert torch.isneginf(lse).all()
        assert [g.shape for g in torch.autograd.grad(out.sum(), (q, k, v))] == [q.shape, k.shape, v.shape]


@pytest.mark.parametrize("tile", [(16, 16), (32, 128), (128, 32), (256, 64)])
def test_every_tile_size(tile: tuple[int, int]) -> None:
    for name in ("window", "both", "scattered"):
        agree(attnspec.compile(PATTERNS[name], tile=tile), *tensors(300, 250))


def test_a_new_length_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from attnspec.runtime.cpp.compiler import Compiler

    attend = attnspec.compile(PATTERNS["window"])
    agree(attend, *tensors(50))
    monkeypatch.setattr(Compiler, "compile", lambda *_: pytest.fail("compiled again"))
    agree(attend, *tensors(177, 91, heads=4, batch=2))


@pytest.mark.parametrize("name", ["window", "both", "per head", "affine head", "empty rows"])
def test_kernels_that_read_tables(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same patterns with every loop nest declared unwieldy."""
    from attnspec.codegen.plan import tiling as module
    from attnspec.runtime.core.program import plan
    from attnspec.runtime.cpp import load as native
    from attnspec.runtime.cpp import structures as problem

    caches = (native._native, plan, problem._fixed)
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(module, "UNWIELDY", -1)
    monkeypatch.setenv("ATTNSPEC_CACHE", str(Path(os.environ["ATTNSPEC_CACHE"]) / "tables"))
    try:
        attend = attnspec.compile(PATTERNS[name])
        assert attend.plan_for(heads=4).tabled
        for n, n_q, kv_heads, batch in ((300, 300, 4, 2), (200, 70, 1, 1), (40, 150, 2, 1)):
            agree(attend, *tensors(n, n_q, 4, kv_heads, batch))
    finally:
        for cache in caches:
            cache.cache_clear()


def test_wide_kernels_compute_positions_in_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chosen for lengths over 2**28, which no test can hold: here the limit is lowered."""
    from attnspec.runtime.core import request

    monkeypatch.setattr(request, "NARROW_LENGTH", 100)
    attend = attnspec.compile("attention a { attend |q - k| * 3 < 120 }")
    agree(attend, *tensors(150))
    (made,) = [n for n in Path(os.environ["ATTNSPEC_CACHE"]).glob("*/kernel.cpp") if _is_wide_forward(n.read_text())]
    assert "attention a" in made.read_text()


def _is_wide_forward(text: str) -> bool:
    return "#define ATTNSPEC_POS int64_t" in text and "forward pass" in text and "* 3 < 120" in text
