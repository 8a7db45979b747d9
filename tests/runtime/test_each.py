"""A divisor for each feature (`divide each`) on the CPU, against the dense meaning: numbers of any size too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import attnspec
from tests.published import recurrences as published
from tests.support.linear import as_dense
from tests.support.marks import slow
from tests.support.oracle import close, tensors

N = 400
LATTE = "attention a {{ {}  linear q: softmax(x)  linear k: exp(x)  divide each total }}"
SHIFTS = {
    "rising": torch.linspace(0, 1e4, N),
    "falling": torch.linspace(1e4, -1e4, N),
    "one late": torch.where(torch.arange(N) == N - 30, 1e4, 0.0),
    "one early": torch.where(torch.arange(N) == 30, 60.0, 0.0),
    "scattered": torch.where(torch.arange(N) % 37 == 5, 1e4, -1e4) + 100 * torch.sin(torch.arange(N) * 1e3),
}
PATTERNS = {
    "causal": "attend causal",
    "window": "attend window(100)",
    "dilated": "attend dilated(40, 4)",
    "blocks": "attend k // 50 <= q // 50",
    "all": "",
}
CASES: dict[str, tuple[str, dict[str, Tensor]]] = {
    "latte": ("latte", {}),
    "bidirectional": ("latte_bidirectional", {}),
    "other features": ("attention a { attend causal  linear elu(x) + 1  divide each total + 1.0  scale 0.7 }", {}),
    "documents": (
        "attention a { input doc: int[batch, n] sorted  attend causal and doc[q] == doc[k]"
        "  linear q: x  linear k: exp(x)  divide each total + 1.0 }",
        {"doc": torch.arange(150)[None].repeat(2, 1) // 37},
    ),
    "several maps": (
        "attention a { attend window(40)  linear q: [sigmoid(x), x, softmax(x)]"
        "  linear k: [exp(x), relu(x), favor(x, features = 16, eps = 0, stable = none)]  divide each total + 0.5 }",
        {},
    ),
    "signed": ("attention a { attend causal and q - k != 5  linear tanh(x)  divide each |total| + 1  scale 0.3 }", {}),
    "gated": (
        "attention a { input gate: float[batch, heads, n]  attend causal  linear relu(x) + 0.1  divide each total"
        "  decay gate[b, h, t] }",
        {"gate": -torch.rand(2, 4, 150)},
    ),
    "learned": (
        "attention a { input w: float[heads, dim]  input floor: float[heads]  attend causal  linear q: x"
        "  linear k: exp(x * w[h, c])  divide each max(total, floor[h])  rotate rope() }",
        {"w": torch.rand(4, 16), "floor": torch.rand(4)},
    ),
    "mixture": (
        "attention a { mix { branch { attend window(20) } branch times 2 { attend causal } } "
        "linear q: softmax(x)  linear k: exp(x)  divide each total }",
        {},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_features_with_divisors_of_their_own(name: str) -> None:
    text, inputs = CASES[name]
    as_dense(text, *tensors(150, 150, 4, 2, 2, dim_v=24), inputs=inputs)
    if not any(t.shape[-1] == 150 for t in inputs.values()):
        as_dense(text, *tensors(90, 33, 4, 4, 1, dim_v=24), inputs=inputs)


def _shifted(shift: str, n_q: int = N) -> list[Tensor]:
    q, k, v = tensors(N, n_q, 2, 1, dim_v=24)
    return [q, (2 * k.detach() + SHIFTS[shift][:, None]).requires_grad_(), v]


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("pattern", [name if name == "causal" else slow(name) for name in PATTERNS])
def test_exponentials_of_any_size(pattern: str, shift: str) -> None:
    """Also of keys that are much larger than all that earlier rows see."""
    vectors, text = _shifted(shift), LATTE.format(PATTERNS[pattern])
    got = attnspec.compile(text)(*vectors)
    want = attnspec.compile(text, target="dense")(*(t.detach().double() for t in vectors))
    close("out", got, want, 2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_gradients_of_exponentials_of_any_size(pattern: str, shift: str) -> None:
    """Those of keys are differences that may be far smaller than what they are differences of."""
    vectors, text = _shifted(shift, 301), LATTE.format(PATTERNS[pattern])
    exact = [t.detach().double().requires_grad_() for t in vectors]
    out, want = attnspec.compile(text)(*vectors), attnspec.compile(text, target="dense")(*exact)
    close("out", out, want, 2e-5)
    up = torch.randn(out.shape)
    for name, x, y in zip(
        "qkv", torch.autograd.grad(out, vectors, up), torch.autograd.grad(want, exact, up.double()), strict=True
    ):
        assert x.isfinite().all()
        assert float((x - y).abs().max()) <= 1e-4 * max(1.0, float(y.abs().max())), name


@pytest.mark.slow
def test_a_window_is_right_after_the_largest_has_left_it() -> None:
    """However little is left of a sum."""
    n = 3000
    q, k, v = (t.detach() for t in tensors(n, dim_v=16))
    k = k + torch.where(torch.arange(n) % 700 == 3, 25.0, 0.0)[:, None]
    text = LATTE.format("attend window(500)")
    want = attnspec.compile(text, target="dense")(q.double(), k.double(), v.double())
    close("out", attnspec.compile(text)(q, k, v), want, 2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["latte", "latte_bidirectional"])
def test_kernels_are_what_was_published(name: str) -> None:
    q, k, v = tensors(130, dim_v=24)
    formula: Any = getattr(published, name)
    doubles = [t.detach().double().requires_grad_() for t in (q, k, v)]
    got, want = attnspec.compile(name)(q, k, v), formula(*doubles)
    close("out", got, want, 2e-5)
    up = torch.randn(got.shape)
    found = torch.autograd.grad(got, (q, k, v), up), torch.autograd.grad(want, doubles, up.double())
    for x, y in zip(*found, strict=True):
        close("gradient", x, y, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    as_dense("latte", *tensors(150, 150, 4, 2, dtype=dtype))


@pytest.mark.slow
def test_pieces_of_a_sequence_for_several_threads() -> None:
    """One head of two threads: states begin with sums of parts, each of which counts from its own largest."""
    q, k, v = (t.detach() for t in tensors(6000, 6000, 1))
    k = k + torch.linspace(-300, 300, 6000)[:, None]
    attend, threads = attnspec.compile("latte"), torch.get_num_threads()
    alone = attend(q, k, v)
    try:
        torch.set_num_threads(4)
        close("out", attend(q, k, v), alone.double(), 1e-5)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_keys_that_are_no_numbers_reach_only_who_sees_them() -> None:
    q, k, v = (t.detach() for t in tensors(300))
    k[:, :, 200], v[:, :, 210] = torch.nan, torch.inf
    for pattern in ("attend causal", "attend window(70)"):
        out = attnspec.compile(LATTE.format(pattern))(q, k, v)
        assert out[:, :, :200].isfinite().all()
        assert not out[:, :, 215].isfinite().any()
    assert out[:, :, 290:].isfinite().all()


@pytest.mark.slow
def test_rows_without_keys_are_zeros() -> None:
    q, k, v = tensors(60)
    out = attnspec.compile(LATTE.format("attend k < q - 9"))(q, k, v)
    assert (out[:, :, :10] == 0).all()
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(out.sum(), (q, k, v)))
