"""Kernels of masks against dense attention in float64, forward and every gradient: lengths, sizes, types, strides."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.support.marks import slow
from tests.support.oracle import agree, tensors
from tests.support.patterns import PATTERNS
from tests.support.targets import MOSTLY_CPP, TARGETS, compiled, same_bits, threads

LENGTHS = [
    *(("cpp", n, n_q) for n, n_q in ((1, 1), (7, 7), (64, 64), (200, 200), (333, 70), (40, 150))),
    slow("cpp", 130, 1),  # a kernel of its own, with quick tests in cpp/test_decode
    ("triton", 45, 45),
    *(slow("triton", n, n_q) for n, n_q in ((1, 1), (64, 64), (101, 101), (90, 37), (40, 75))),
]


@pytest.mark.parametrize(("target", "n", "n_q"), LENGTHS)
@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_and_lengths(name: str, target: str, n: int, n_q: int) -> None:
    agree(compiled(PATTERNS[name], target), *tensors(n, n_q, heads=4))


F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
# Of the types, bfloat16 is left to a GPU: Triton's interpreter multiplies its bits.
TYPES = {"cpp": (F32, BF16, F16), "triton": (F32, F16)}
DIMS = {
    "cpp": (
        *((dim, dim) for dim in (1, 8, 17, 64, 80, 96, 128, 256)),
        *((16, 40), (64, 17), (8, 256), (192, 128)),
    ),
    "triton": ((8, 8), (64, 64), (80, 96), (96, 80), (128, 40), (20, 256)),
}
QUICK = {
    *(("cpp", 1, 1, F32), ("cpp", 8, 8, BF16), ("cpp", 17, 17, F32), ("cpp", 64, 64, F32), ("cpp", 80, 80, F16)),
    *(("cpp", 96, 96, BF16), ("cpp", 128, 128, F16), ("cpp", 256, 256, F32), ("cpp", 16, 40, F32)),
    *(("cpp", 64, 17, BF16), ("cpp", 8, 256, BF16), ("cpp", 192, 128, F32)),
    *(("triton", 8, 8, F32), ("triton", 80, 96, F16), ("triton", 20, 256, F32)),
}
SIZES = [
    case if case in QUICK else slow(*case)
    for target in TARGETS
    for case in ((target, *dims, dtype) for dims in DIMS[target] for dtype in TYPES[target])
]


@pytest.mark.parametrize(("target", "dim", "dim_v", "dtype"), SIZES)
def test_head_sizes_and_types(target: str, dim: int, dim_v: int, dtype: torch.dtype) -> None:
    n = {"cpp": 150, "triton": 45}[target]
    agree(compiled(PATTERNS["both"], target), *tensors(n, dim=dim, dim_v=dim_v, dtype=dtype))


@pytest.mark.parametrize(("heads", "kv_heads", "batch"), [(4, 2, 1), (6, 1, 2), (3, 3, 5), (1, 1, 3), (8, 2, 2)])
@pytest.mark.parametrize("number", [1, 2])
def test_grouped_heads_batches_and_threads(heads: int, kv_heads: int, batch: int, number: int) -> None:
    with threads(number):
        agree(compiled(PATTERNS["window"], "cpp"), *tensors(150, None, heads, kv_heads, batch))
        agree(compiled(PATTERNS["affine head"], "cpp"), *tensors(90, 33, heads, kv_heads, batch))


GROUPED = [
    *(("affine head", 4, 2, 1), ("per head", 4, 1, 1)),
    *(slow("window", *sizes) for sizes in ((4, 2, 2), (6, 1, 1), (3, 3, 2), (4, 4, 1))),
    *(slow("affine head", *sizes) for sizes in ((4, 2, 2), (6, 1, 1), (3, 3, 2), (4, 4, 1))),
    *(slow("per head", *sizes) for sizes in ((4, 2, 2), (3, 3, 2), (4, 4, 1))),
]


@pytest.mark.parametrize(("name", "heads", "kv_heads", "batch"), GROUPED)
def test_grouped_heads_in_triton(name: str, heads: int, kv_heads: int, batch: int) -> None:
    agree(compiled(PATTERNS[name], "triton"), *tensors(60, 33, heads, kv_heads, batch))


@pytest.mark.parametrize("target", TARGETS)
def test_heads_that_share_keys_in_different_classes(target: str) -> None:
    text = "attention mixed { for h in [0, 2] { attend window(9) } for h in [1, 3] { attend k % 3 == 0 and causal } }"
    agree(compiled(text, target), *tensors(45, heads=4, kv_heads=2))


@pytest.mark.parametrize(
    ("target", "scale"), [*(("cpp", scale) for scale in (1.0, 0.0, -0.5, 3.0)), ("triton", -0.5), slow("triton", 0.0)]
)
def test_scale(target: str, scale: float) -> None:
    agree(compiled(PATTERNS["causal"], target), *tensors(45), scale=scale)


@pytest.mark.parametrize("target", TARGETS)
def test_large_scores(target: str) -> None:
    """Scores of tens of thousands, in which fp32 itself is only good to some thousandths."""
    agree(compiled(PATTERNS["causal"], target), *tensors(70, dim=64, size=5000.0), tolerance=2e-2)


@pytest.mark.parametrize(("target", "n", "heads"), [("cpp", 120, 4), ("triton", 40, 2)])
def test_strided_tensors_are_read_in_place(target: str, n: int, heads: int) -> None:
    """(batch, length, heads, dim) storage, a slice of a fused projection, a transposed and an expanded tensor."""
    attend = compiled(PATTERNS["window"], target)
    base = torch.randn(2, n, 3, heads, 16)
    q, k, v = (base[:, :, i].transpose(1, 2).requires_grad_() for i in range(3))
    agree(attend, q, k, v)
    backwards = torch.randn(2, heads, 16, n).transpose(2, 3).requires_grad_()
    agree(attend, backwards, backwards.detach().requires_grad_(), v)
    shared = torch.randn(1, 1, n, 16).expand(2, heads, n, 16).requires_grad_()
    agree(attend, q, shared, v)


@pytest.mark.parametrize("target", TARGETS)
def test_gradient_of_an_expanded_output(target: str) -> None:
    """``out.sum().backward()`` hands down a gradient with stride 0."""
    q, k, v = tensors(45)
    attend = compiled(PATTERNS["causal"], target)
    expanded = torch.autograd.grad(attend(q, k, v).sum(), (q, k, v))
    plain = torch.autograd.grad(attend(q, k, v), (q, k, v), torch.ones(1, 2, 45, 16))
    assert all(torch.equal(a, b) for a, b in zip(expanded, plain, strict=True))


@pytest.mark.parametrize(
    ("target", "n", "heads", "times"), [*(("cpp", 700, heads, 5) for heads in (1, 2, 3)), ("triton", 60, 3, 1)]
)
def test_same_bits_twice(target: str, n: int, heads: int, times: int) -> None:
    same_bits(compiled(PATTERNS["both"], target), *tensors(n, heads=heads, dim=64), times=times)


@pytest.mark.parametrize(("target", "n"), [("cpp", 200), ("triton", 80)])
def test_nan_reaches_the_rows_that_see_it_and_no_others(target: str, n: int) -> None:
    q, k, v = tensors(n)
    attend = compiled("attention near { attend window(20) }", target)
    with torch.no_grad():
        k[0, 0, n // 2, 3] = float("nan")
        out = attend(q, k, v)
    seen = torch.zeros(n, dtype=torch.bool)
    seen[n // 2 : n // 2 + 20] = True
    assert torch.equal(torch.isnan(out[0, 0]).any(-1), seen)
    assert not torch.isnan(out[0, 1]).any()


@pytest.mark.parametrize("target", TARGETS)
def test_empty_tensors(target: str) -> None:
    attend = compiled(PATTERNS["causal"], target)
    for n, n_q, batch in ((0, 0, 1), (0, 5, 1), (5, 0, 1), (4, 4, 0)):
        q, k, v = tensors(n, n_q, batch=batch)
        out, lse = attend(q, k, v, return_lse=True)
        assert out.shape == (batch, 2, n_q, 16)
        assert lse.shape == (batch, 2, n_q)
        if n == 0:
            assert (out == 0).all()
            assert torch.isneginf(lse).all()
        assert [g.shape for g in torch.autograd.grad(out.sum(), (q, k, v))] == [q.shape, k.shape, v.shape]


@pytest.mark.parametrize("name", ["both", slow("window"), slow("scattered")])
@pytest.mark.parametrize("tile", [(16, 16), (32, 128), (128, 32), (256, 64)])
def test_every_tile_size(tile: tuple[int, int], name: str) -> None:
    agree(compiled(PATTERNS[name], "cpp", tile=tile), *tensors(300, 250))


@pytest.mark.parametrize("target", MOSTLY_CPP)
def test_torch_compile(target: str) -> None:
    attend = compiled(PATTERNS["both"], target)
    q, k, v = tensors(70)
    whole: Any = torch.compile(lambda *given: attend(*given), fullgraph=True, backend="aot_eager")
    got, want = whole(q, k, v), attend(q, k, v)
    assert torch.equal(got, want)
    for a, b in zip(*(torch.autograd.grad(out.square().sum(), (q, k, v)) for out in (got, want)), strict=True):
        assert torch.allclose(a, b)
