"""Merging by log-sum-exp: parts of the keys, against dense attention to all of them in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.runtime.cpp import merge
from tests.support.marks import slow
from tests.support.oracle import close, tensors

PARTS = (
    "attend window(5)",
    "attend q - k >= 5 and k % 3 == 0",
    "attend q - k >= 5 and k % 3 != 0 and q % 4 == 1",
    "attend false",
)
WHOLE = " ".join(PARTS)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 3e-5), slow(torch.bfloat16, 4e-2), slow(torch.float16, 6e-3)]
)
def test_parts_are_the_whole(dtype: torch.dtype, tolerance: float) -> None:
    """Rows that some parts do not see, and (the first ones of odd heads) rows that none sees, with all gradients."""
    within = "within q >= 3 * (h % 2)"
    q, k, v = tensors(60, 50, heads=4, kv_heads=2, batch=2, dim_v=24, dtype=dtype)
    parts = [attnspec.compile(f"attention a {{ {part} {within} }}") for part in PARTS]
    out, lse = attnspec.merge(part(q, k, v, return_lse=True) for part in parts)
    assert out.dtype == dtype
    assert lse.dtype == torch.float32
    exact = [t.detach().double().requires_grad_() for t in (q, k, v)]
    dense = attnspec.compile(f"attention a {{ {WHOLE} {within} }}", target="dense")
    want, want_lse = dense(*exact, return_lse=True)
    assert torch.equal(torch.isinf(lse), torch.isinf(want_lse))
    finite, want_finite = lse.nan_to_num(neginf=0.0), want_lse.nan_to_num(neginf=0.0)
    close("out", out, want, tolerance)
    close("lse", finite, want_finite, tolerance)
    seed, seed_lse = (torch.randn(t.shape, generator=torch.Generator().manual_seed(1)) for t in (out, lse))
    mine = torch.autograd.grad((out * seed.to(dtype)).sum() + (finite * seed_lse).sum(), (q, k, v))
    theirs = torch.autograd.grad((want * seed.to(dtype)).sum() + (want_finite * seed_lse).sum(), exact)
    for name, a, b in zip("qkv", mine, theirs, strict=True):
        close(f"d{name}", a, b, tolerance)


def test_in_float64_to_the_second_derivative() -> None:
    generator = torch.Generator().manual_seed(0)
    outs = [torch.randn(2, 3, 4, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(3)]
    lses = [torch.randn(2, 3, dtype=torch.float64, generator=generator) * 20 for _ in range(3)]
    lses[0][0], lses[1][0, 0], lses[2][0, 0] = -torch.inf, -torch.inf, -torch.inf
    for lse in lses:
        lse.requires_grad_()

    def merged(*given: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = attnspec.merge(list(zip(given[:3], given[3:], strict=True)))
        return out, lse.nan_to_num(neginf=0.0)

    out, lse = merged(*outs, *lses)
    assert out[0, 0].tolist() == [0.0] * 4
    gradients = torch.autograd.grad(out.sum() + lse.sum(), [*outs, *lses])
    assert not any(g.isnan().any() for g in gradients)
    # Numbers for the derivatives: finite ones, for infinity cannot be moved.
    finite = [t.detach().nan_to_num(neginf=-3.0).requires_grad_() for t in (*outs, *lses)]
    assert torch.autograd.gradcheck(merged, finite)
    assert torch.autograd.gradgradcheck(merged, finite)


def test_hidden_parts_have_no_effect() -> None:
    """A part that sees nothing may hold what is no number, and far larger scores lose nothing."""
    out, lse = torch.randn(1, 1, 3, 4), torch.tensor([[[1e9, -1e9, 0.0]]])
    empty = torch.full_like(out, torch.nan), torch.full_like(lse, -torch.inf)
    got, got_lse = attnspec.merge([empty, (out, lse), empty])
    assert torch.equal(got, out)
    assert torch.equal(got_lse, lse)
    got, got_lse = attnspec.merge([(out, lse), (-out, lse)])
    assert torch.equal(got, torch.zeros_like(out))
    torch.testing.assert_close(got_lse, lse + torch.tensor(2.0).log())
    got, got_lse = attnspec.merge([empty])
    assert torch.equal(got, torch.zeros_like(out))
    assert torch.equal(got_lse, empty[1])
    some, some_lse = out.clone(), lse.clone()
    some[0, 0, 1], some_lse[0, 0, 1] = torch.inf, -torch.inf
    got, got_lse = attnspec.merge([(some, some_lse), (-out, lse)])
    assert torch.equal(got, torch.zeros_like(out).index_copy_(2, torch.tensor([1]), -out[:, :, 1:2]))
    torch.testing.assert_close(got_lse, torch.logaddexp(some_lse, lse))
    (gradient,) = torch.autograd.grad(
        attnspec.merge([(part := empty[0].clone().requires_grad_(), empty[1]), (out, lse)])[0].sum(), part
    )
    assert torch.equal(gradient, torch.zeros_like(out))


def test_with_gradients_and_without() -> None:
    """The same results: parts that see all, some or no rows, and scores that are too low for a weight."""
    generator = torch.Generator().manual_seed(0)
    outs = [torch.randn(2, 3, 40, 8, generator=generator) for _ in range(4)]
    lses = [torch.randn(2, 3, 40, generator=generator) * 40 for _ in range(4)]
    lses[1][:, :, 7:], lses[2][:], lses[3][0] = -torch.inf, -torch.inf, -1e30
    lses[0][1, 2, 30:], lses[3][1, 2, 30:] = -torch.inf, -torch.inf
    plain = attnspec.merge(list(zip(outs, lses, strict=True)))
    traced = attnspec.merge([(out.requires_grad_(), lse) for out, lse in zip(outs, lses, strict=True)])
    assert traced[0].requires_grad
    for name, a, b in zip(("out", "lse"), plain, traced, strict=True):
        torch.testing.assert_close(a, b.detach(), atol=1e-6, rtol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    outs[3].data[0, 0, 0] = torch.inf  # there it has no weight
    assert attnspec.merge([(out.detach(), lse) for out, lse in zip(outs, lses, strict=True)])[0].isfinite().all()


def test_a_sink_is_a_part() -> None:
    q, k, v = tensors(20)
    logit = torch.tensor([0.3, -1.0], requires_grad=True)
    whole = attnspec.compile("attention a { input logit: float[heads]  attend causal  sink logit[h] }")(
        q, k, v, logit=logit
    )
    rest = attnspec.compile("causal")(q, k, v, return_lse=True)
    out, _ = attnspec.merge([rest, (torch.zeros_like(rest[0]), logit[None, :, None].expand(1, 2, 20))])
    torch.testing.assert_close(out, whole, atol=1e-5, rtol=1e-5)
    mine, theirs = (torch.autograd.grad(t.square().sum(), logit)[0] for t in (out, whole))
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_under_compile() -> None:
    near, far = (attnspec.compile(f"attention a {{ {part} }}") for part in PARTS[:2])
    q, k, v = tensors(40)

    def both(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attnspec.merge([near(q, k, v, return_lse=True), far(q, k, v, return_lse=True)])[0]

    torch.testing.assert_close(torch.compile(both, fullgraph=True, backend="aot_eager")(q, k, v), both(q, k, v))


HALF, ONE, TWO = torch.zeros(1, 2, 3, 4, dtype=torch.float16), torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "there are no parts"),
        ([ONE], "part 0 must be an output and a log-sum-exp"),
        ([(ONE, TWO), (ONE, None)], "part 1 must be an output and a log-sum-exp"),
        ([(ONE, ONE)], r"output \(1, 2, 3, 4\) and a log-sum-exp \(1, 2, 3, 4\)"),
        ([(ONE, TWO), (ONE[:, :, :2], TWO[:, :, :2])], r"part 0 has \(1, 2, 3, 4\).*part 1 \(1, 2, 2, 4\)"),
        ([(ONE, TWO), (HALF, TWO)], "part 0 has .*float32.*part 1 .*float16"),
        ([(ONE, TWO.half())], "part 0 has an output of torch.float32 and a log-sum-exp of torch.float16"),
        ([(ONE.double(), TWO)], "part 0 .*float64, which outputs of float64 need"),
        ([(ONE.long(), TWO)], "output of torch.int64"),
        ([(ONE, TWO.to("meta"))], "one device"),
    ],
)
def test_parts_that_do_not_fit(parts: list[tuple[Tensor, Tensor]], message: str) -> None:
    with pytest.raises(attnspec.CallError, match=message):
        attnspec.merge(parts)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_routine_is_the_operations(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any strides and head size, with rows of no number and of infinite scores; without a compiler it is these."""
    generator = torch.Generator().manual_seed(0)
    outs = [torch.randn(3, 70, 2, 300, generator=generator).transpose(1, 2).to(dtype) for _ in range(3)]
    lses = [torch.randn(3, 70, 2, generator=generator).transpose(1, 2) * 9 for _ in range(3)]
    lses[0][0, 0, :9], lses[1][0, 0, :5], lses[2][0, 0, :3] = -torch.inf, -torch.inf, -torch.inf
    lses[2][1, 0, 0], lses[2][1, 0, 1], outs[1][2, 1, 5] = torch.nan, torch.inf, torch.nan
    parts = list(zip(outs, lses, strict=True))
    at_once = attnspec.merge(parts)
    monkeypatch.setattr(merge, "_function", lambda _: None)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for a, b in zip(at_once, attnspec.merge(parts), strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance, equal_nan=True)
    assert at_once[0].is_contiguous()
