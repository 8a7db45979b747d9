"""Layers: token statistics against the published layers, and random features that are drawn anew."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import attnspec
from attnspec import TokenStatistics
from attnspec.nn import FavorAttention
from tests.published.recurrences import performer
from tests.support.marks import slow
from tests.support.oracle import close, tensors

BATCH, HEADS, N, DIM = 2, 3, 11, 4
ALL = "attention whole { linear 1 }"
DOC = torch.tensor([[0] * 40 + [2] * 30, [1] * 5 + [2] * 65])


def for_language(w: Tensor, temp: Tensor, bias: Tensor) -> Tensor:
    """The causal layer (Wu et al., 2025, section 4), token by token: what it sees is all that came, and itself."""
    shares, rows = [], []
    for t in range(w.shape[2]):
        seen = w[:, :, : t + 1] ** 2
        u = seen[:, :, t] / seen.sum(2).clamp(min=1e-12) + bias[:, t]
        shares.append((temp * u.sum(-1, keepdim=True)).softmax(1))
        pi = torch.stack(shares, 2)
        g = (pi * seen).sum(2) / (pi.sum(2) + 1e-8)
        rows.append(-w[:, :, t] * shares[t] / (1 + g))
    return torch.stack(rows, 2)


def for_images(w: Tensor, temp: Tensor) -> Tensor:
    """The layer for images (section 3): tokens are scaled to unit length along the sequence, for each channel."""
    unit = torch.nn.functional.normalize(w, dim=2)
    pi = (temp * (unit**2).sum(-1)).softmax(1)
    weights = (pi / (pi.sum(-1, keepdim=True) + 1e-8))[:, :, None]
    return -w * pi[..., None] / (1 + weights @ w**2)


@pytest.mark.parametrize("spec", ["tost", ALL])
def test_token_statistics_are_the_published_layers(spec: str) -> None:
    torch.manual_seed(0)
    layer = TokenStatistics(spec, heads=HEADS, length=N if spec == "tost" else None, target="dense").double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    w = torch.randn(BATCH, HEADS, N, DIM, dtype=torch.float64, requires_grad=True)
    published: Callable[..., Tensor] = for_language if spec == "tost" else for_images
    by = torch.randn_like(w)
    for got, want in zip(
        *(
            (x, *torch.autograd.grad((x * by).sum(), [w, *layer.parameters()]))
            for x in (layer(w), published(w, *layer.parameters()))
        ),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-11)
        assert want.abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, slow(torch.bfloat16)])
def test_token_statistics_of_kernels(dtype: torch.dtype) -> None:
    """As in float64, gradients too; sums are float32 whatever the tokens are, also under autocast."""
    layer, generator = TokenStatistics(heads=HEADS, length=200), torch.Generator().manual_seed(0)
    exact = TokenStatistics(heads=HEADS, length=200, target="dense").double()
    exact.load_state_dict({"temp": torch.rand(HEADS, 1), "denom_bias": torch.rand(HEADS, 200, 1)})
    layer.load_state_dict(exact.state_dict())
    w = torch.randn(BATCH, HEADS, 150, 16, generator=generator).to(dtype).requires_grad_()
    wide = w.detach().double().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(w)
    assert out.dtype == dtype
    want, by = exact(wide), torch.randn(w.shape, generator=generator).to(dtype)
    error, gradient_error = (2e-5, 1e-4) if dtype == torch.float32 else (2e-2, 3e-2)
    close("out", out, want, error)
    found = torch.autograd.grad(out, [w, *layer.parameters()], by)
    wanted = torch.autograd.grad(want, [wide, *exact.parameters()], by.double())
    for name, x, y in zip(("w", "temp", "denom_bias"), found, wanted, strict=True):
        close(name, x, y, gradient_error)


def test_token_statistics_of_documents() -> None:
    """A document's tokens are as if they stood alone: the pattern decides what a token's statistics are of."""
    packed = "attention documents { include packed  linear 1 }"
    layer, alone = (TokenStatistics(spec, heads=HEADS, target="dense").double() for spec in (packed, "tost"))
    w = torch.randn(BATCH, HEADS, 70, DIM, dtype=torch.float64)
    out = layer(w, doc=DOC)
    for b, (begin, end) in ((0, (0, 40)), (0, (40, 70)), (1, (0, 5)), (1, (5, 70))):
        want = alone(w[b : b + 1, :, begin:end])
        torch.testing.assert_close(out[b : b + 1, :, begin:end], want, rtol=0, atol=1e-11)
    assert torch.equal(layer(w, inputs={"doc": DOC}), out)


def test_the_state_and_the_text_of_token_statistics() -> None:
    layer = TokenStatistics("tost", heads=8, length=100)
    assert {name: tuple(t.shape) for name, t in layer.state_dict().items()} == {
        "temp": (8, 1),
        "denom_bias": (8, 100, 1),
    }
    assert repr(layer) == "TokenStatistics(tost, heads=8, length=100, target=auto)"
    wide = "attention wide(width = 9) { attend window(width)  linear 1 }"
    free = TokenStatistics(attnspec.compile(wide, target="dense"), heads=2)
    assert repr(free) == "TokenStatistics(wide(width=9), heads=2, target=dense)"
    assert [*free.state_dict()] == ["temp"]


def test_what_token_statistics_refuse() -> None:
    for spec, said in (
        ("window", "not `softmax`"),
        ("linear", "not `linear elu"),
        ("attention a { linear 1  divide total }", "divide total"),
        ("attention a { linear 2 }", "not `linear 2`"),
        ("attention a { linear 1  scale 2.0 }", "scale 2"),
    ):
        with pytest.raises(ValueError, match=said):
            TokenStatistics(spec, heads=2)
    with pytest.raises(TypeError, match="compiled already: target"):
        TokenStatistics(attnspec.compile("tost"), heads=2, target="dense")
    layer = TokenStatistics(heads=HEADS, length=N)
    for shape, said in (((1, 2, N, DIM), "3 heads"), ((1, HEADS, N + 1, DIM), "11 positions"), ((N, DIM), "4 dim")):
        with pytest.raises(attnspec.CallError, match=said):
            layer(torch.randn(shape))
    with pytest.raises(attnspec.CallError, match="w is torch"):
        layer(torch.randn(1, HEADS, N, DIM, dtype=torch.float64))


def favor(**options: Any) -> FavorAttention:
    torch.manual_seed(0)
    return FavorAttention("performer_causal", dim=16, features=20, target="dense", **options)


def vectors() -> list[Tensor]:
    return [t.detach().double().requires_grad_() for t in tensors(30)]


def test_a_projection_is_what_the_published_layer_projects_on() -> None:
    layer, (q, k, v) = favor().double(), vectors()
    by = torch.randn_like(v)
    for got, want in zip(
        *(
            (x, *torch.autograd.grad(x, (q, k, v), by))
            for x in (layer(q, k, v), performer(q, k, v, layer.projection, "performer_causal"))
        ),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-11)
    lengths = layer.projection.norm(dim=1, keepdim=True)
    rows = (layer.projection / lengths)[:16]
    torch.testing.assert_close(rows @ rows.T, torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-6)


def test_a_projection_serves_as_many_calls_as_it_is_to() -> None:
    layer, given = favor(redraw_every=2), tensors(30)
    used = []
    for _ in range(5):
        layer(*given)
        used.append(layer.projection)
    assert [torch.equal(a, b) for a, b in pairwise(used)] == [True, False, True, False]
    layer.eval()
    for _ in range(5):
        layer(*given)
    assert layer.projection is used[-1]
    by_hand = favor(redraw_every=None)
    assert torch.equal(by_hand.projection, used[0])
    for _ in range(5):
        by_hand(*given)
    by_hand.redraw()
    assert torch.equal(by_hand.projection, used[2])


def test_a_state_goes_on_where_it_was() -> None:
    layer, given = favor(redraw_every=3), tensors(30)
    for _ in range(5):
        layer(*given)
    torch.manual_seed(7)
    other = FavorAttention("performer_causal", dim=16, redraw_every=3, features=20, target="dense")
    assert not torch.equal(other.projection, layer.projection)
    other.load_state_dict(layer.state_dict())
    third = copy.deepcopy(layer)
    for _ in range(3):
        out = layer(*given)
        assert torch.equal(out, other(*given))
        assert torch.equal(out, third(*given))
    assert int(layer.calls) == 2
    assert [*layer.state_dict()] == ["seed", "calls", "projection"]


def test_gradients_are_of_the_projection_of_their_call() -> None:
    """A projection that is drawn before a backward pass changes nothing in it, nor do calls that are made again."""
    layer, (q, k, v) = favor(redraw_every=1).double(), vectors()
    out = layer(q, k, v)
    old, first = copy.deepcopy(layer).eval(), layer.projection
    layer(q, k, v)
    assert not torch.equal(layer.projection, first)
    for mine, theirs in zip(*(torch.autograd.grad(x.square().sum(), q) for x in (out, old(q, k, v))), strict=True):
        assert torch.equal(mine, theirs)
    for reentrant in (False, True):
        out = checkpoint(layer, q, k, v, use_reentrant=reentrant)
        last, old = layer.projection, copy.deepcopy(layer).eval()
        q.grad = None
        out.square().sum().backward()
        assert layer.projection is last
        assert q.grad is not None
        torch.testing.assert_close(q.grad, torch.autograd.grad(old(q, k, v).square().sum(), q)[0])


@pytest.mark.parametrize("target", ["dense", slow("cpp")])
def test_a_branch_of_a_mixture_has_the_projection(target: str) -> None:
    far = "branch { attend k <= q - 4  linear favor(x, features = 9, stable = none)  divide total }"
    layer = FavorAttention(f"attention a {{ mix {{ branch {{ attend window(4) }} {far} }} }}", dim=16, target=target)
    assert layer.projection.shape == (9, 16)
    q, k, v = tensors(30)
    out, before = layer(q, k, v), layer.projection
    assert torch.equal(out, layer.attend(q, k, v, projection=before))
    layer.redraw()
    assert not torch.equal(out, layer(q, k, v))


def test_what_a_favor_attention_refuses() -> None:
    assert repr(favor()) == "FavorAttention(performer_causal(features=20), target=dense, dim=16, redraw_every=1000)"
    unlike = "attention a { linear [favor(x, stable = none), favor(x, 9, stable = none)] }"
    for spec, said in (("linear", "has no favor"), (unlike, "unlike")):
        with pytest.raises(ValueError, match=said):
            FavorAttention(spec, dim=16)
    with pytest.raises(ValueError, match="not 0"):
        favor(redraw_every=0)
    with pytest.raises(attnspec.CallError, match=r"\(20, 8\)"):
        favor()(*(t[..., :8] for t in tensors(30)))
