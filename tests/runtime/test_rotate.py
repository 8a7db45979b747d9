"""Rotations against the complex-number formula, and against Hugging Face's tables where `transformers` is installed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnspec.check.check import check_text
from attnspec.errors.source import Source, Span
from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.prepare.frequencies import attention_factor, frequencies, rotated_dims
from attnspec.runtime.prepare.positions import places
from attnspec.runtime.prepare.rotate import rotate, turned
from attnspec.spec import expr as e
from attnspec.spec.parts import Rotation
from attnspec.spec.spec import Spec
from tests.support.marks import slow

Q, K = e.Var("q"), e.Var("k")
YARN = {
    "theta": 10000.0,
    "factor": 16.0,
    "original": 4096,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "ramp": "index",
    "truncate": True,
    "attention_factor": 0.1 * math.log(16.0) + 1,
    "dims": 0,
    "layout": "half",
}


def rope(theta: float = 10000.0, dims: int = 0, layout: str = "half", q: e.IntExpr = Q, k: e.IntExpr = K) -> Rotation:
    return Rotation("rope", (("theta", theta), ("dims", dims), ("layout", layout)), q, k)


def xpos(scale_base: float = 512.0, layout: str = "pairs") -> Rotation:
    return Rotation("xpos", (("theta", 10000.0), ("scale_base", scale_base), ("dims", 0), ("layout", layout)), Q, K)


def yarn(**changes: Any) -> Rotation:
    options = {**YARN, **changes}
    if "factor" in changes:
        options["attention_factor"] = 0.1 * math.log(options["factor"]) + 1
    return Rotation("yarn", tuple(options.items()), Q, K)


def test_the_options_are_those_that_the_checker_gives() -> None:
    yarn = "yarn(factor = 16, original = 4096, start = 12)"
    lines = f"rotate rope(dims = 4)  rotate xpos(dims = 8, start = 4)  rotate {yarn} at (q - 1, k)"
    checked = check_text(f"attention a {{ {lines} }}")
    assert dict(checked.rotations[0].options) == dict(rope(dims=4).options)
    assert dict(checked.rotations[2].options) == pytest.approx({**YARN, "start": 12})
    q = torch.randn(1, 1, 12, 16)
    for x in turned(checked, q, q, Sizes(12, 12)):
        assert x.isfinite().all()


def spec(*rotations: Rotation, normalized: tuple[str, ...] = ()) -> Spec:
    nowhere = Span(Source("test", ""), 0, 0)
    return Spec("t", (), (), (), "end", "", nowhere, rotations=rotations, normalized=frozenset(normalized))


def by_complex(x: Tensor, positions: Tensor, turn: np.ndarray[Any, Any], layout: str) -> Tensor:
    """The definition: pairs as complex numbers, times ``turn ** position``; ``turn`` is (dims / 2,)."""
    half = len(turn)
    array = x.double().numpy()
    turning = array[..., : 2 * half]
    if layout == "pairs":
        numbers = turning[..., 0::2] + 1j * turning[..., 1::2]
    else:
        numbers = turning[..., :half] + 1j * turning[..., half:]
    # Angles as exact as can be: the power of a number near the unit circle loses none that matters here.
    angle, size = np.angle(turn), np.abs(turn)
    at = positions.numpy().astype(np.float64)[..., None]
    numbers = numbers * np.exp(1j * at * angle + at * np.log(size))
    out = array.copy()
    if layout == "pairs":
        out[..., 0 : 2 * half : 2], out[..., 1 : 2 * half : 2] = numbers.real, numbers.imag
    else:
        out[..., :half], out[..., half : 2 * half] = numbers.real, numbers.imag
    return torch.from_numpy(out)


def unit_turns(dims: int, theta: float = 10000.0) -> np.ndarray[Any, Any]:
    return np.exp(1j * theta ** (-np.arange(0, dims, 2) / dims))


@settings(max_examples=40, deadline=None)
@given(
    half=st.integers(1, 6),
    rest=st.integers(0, 5),
    layout=st.sampled_from(["half", "pairs"]),
    n=st.integers(1, 9),
    start=st.integers(-50, 2000),
    theta=st.sampled_from([10.0, 10000.0, 500000.0]),
    batched=st.booleans(),
)
def test_rope_is_the_complex_formula(
    half: int, rest: int, layout: str, n: int, start: int, theta: float, batched: bool
) -> None:
    dims = 2 * half
    x = torch.randn(2, 3, n, dims + rest, dtype=torch.float64)
    positions = torch.arange(start, start + n)
    if batched:
        positions = torch.stack((positions, positions * 3 + 1))
    got = rotate(x, positions, rope(theta, dims if rest else 0, layout), "q")
    want = by_complex(x, positions[:, None] if batched else positions, unit_turns(dims, theta), layout)
    torch.testing.assert_close(got, want, atol=1e-9, rtol=0)


def test_a_range_is_its_positions_and_its_tables_are_kept() -> None:
    x = torch.randn(1, 2, 50, 16)
    for _ in range(2):
        got = rotate(x, range(7, 57), rope(), "k")
        assert torch.equal(got, rotate(x, torch.arange(7, 57), rope(), "k"))
    with torch.inference_mode():
        rotate(x, range(1007, 1057), rope(), "k")
    rotate(x.clone().requires_grad_(), range(1007, 1057), rope(), "k").sum().backward()  # not an inference tensor


def test_many_rows_are_worked_through_in_pieces() -> None:
    x = torch.randn(1, 1, 9000, 4, dtype=torch.float64)
    got = rotate(x, range(9000), rope(), "q")
    torch.testing.assert_close(got, by_complex(x, torch.arange(9000), unit_turns(4), "half"), atol=1e-9, rtol=0)
    assert rotate(x[:, :, :0], range(0), rope(), "q").shape == (1, 1, 0, 4)


@pytest.mark.parametrize("layout", ["half", "pairs"])
def test_a_million_positions_on_scores_are_as_exact_as_at_the_start(layout: str) -> None:
    q, k = torch.randn(2, 1, 1, 4, 64).unbind(0)
    near = rotate(q, torch.arange(4), rope(layout=layout), "q") @ rotate(
        k, torch.arange(4), rope(layout=layout), "k"
    ).transpose(-1, -2)
    far = torch.arange(4) + (1 << 20)
    there = rotate(q, far, rope(layout=layout), "q") @ rotate(k, far, rope(layout=layout), "k").transpose(-1, -2)
    torch.testing.assert_close(near, there, atol=2e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_dtypes_are_rounded_once(dtype: torch.dtype) -> None:
    x = torch.randn(1, 2, 30, 8).to(dtype)
    got = rotate(x, range(30), rope(), "q")
    exact = rotate(x.double(), range(30), rope(), "q")
    assert got.dtype == dtype
    torch.testing.assert_close(got, exact.to(dtype), atol=1e-6, rtol=torch.finfo(dtype).eps)


@pytest.mark.parametrize("rotation", [rope(), rope(dims=4, layout="pairs"), xpos(8.0), yarn()])
def test_gradients(rotation: Rotation) -> None:
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    for side in ("q", "k"):
        assert torch.autograd.gradcheck(lambda x, s=side: rotate(x, torch.arange(5), rotation, s, 2.0), x)
    assert torch.autograd.gradgradcheck(lambda x: rotate(x, torch.arange(5), rotation, "q", 2.0), x)


@pytest.mark.parametrize("rotation", [*map(slow, (rope(), rope(dims=4, layout="pairs"), xpos(8.0))), yarn()])
def test_it_compiles_without_graph_breaks(rotation: Rotation) -> None:
    x = torch.randn(1, 2, 5, 6, requires_grad=True)

    def both(x: Tensor, at: Tensor) -> Tensor:
        return rotate(x, range(3, 8), rotation, "q", 4.0) * rotate(x, at, rotation, "k", 4.0)

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    got, want = (f(x, torch.arange(5)) for f in (compiled, both))
    torch.testing.assert_close(got, want)
    (a,), (b,) = (torch.autograd.grad(y.sum(), x) for y in (got, want))
    torch.testing.assert_close(a, b)


# xPos


@pytest.mark.parametrize("layout", ["half", "pairs"])
def test_xpos_scores_are_those_of_the_paper(layout: str) -> None:
    """Re sum of zeta^((m - n) / B) q conj(k) e^(i (m - n) theta), for keys before queries."""
    dim, n, base = 8, 40, 16.0
    q, k = torch.randn(2, 1, 1, n, dim, dtype=torch.float64).unbind(0)
    a, b = turned(spec(xpos(base, layout)), q, k, Sizes(n, n))
    zeta = (np.arange(0, dim, 2) / dim + 0.4) / 1.4
    turn = unit_turns(dim)
    split = (lambda t: t[..., 0::2] + 1j * t[..., 1::2]) if layout == "pairs" else _halves
    qc, kc = (split(t[0, 0].numpy()) for t in (q, k))
    distance = np.arange(n)[:, None] - np.arange(n)[None, :]
    factor = (zeta ** (1 / base) * turn) ** np.maximum(distance, 0)[..., None]
    want = torch.from_numpy((qc[:, None] * kc.conj()[None] * factor).sum(-1).real).tril()
    torch.testing.assert_close((a @ b.transpose(-1, -2))[0, 0].tril(), want, atol=1e-9, rtol=1e-9)


def _halves(t: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    half = t.shape[-1] // 2
    return t[..., :half] + 1j * t[..., half:]


def test_xpos_scores_do_not_depend_on_the_centre() -> None:
    q, k = torch.randn(2, 1, 1, 30, 8, dtype=torch.float64).unbind(0)
    at = torch.arange(30)
    scores = [
        rotate(q, at, xpos(), "q", c) @ rotate(k, at, xpos(), "k", c).transpose(-1, -2) for c in (0.0, 11.0, 29.5)
    ]
    torch.testing.assert_close(scores[0], scores[1])
    torch.testing.assert_close(scores[0], scores[2])


def test_xpos_refuses_what_no_float_holds() -> None:
    q = torch.randn(1, 1, 60000, 2)
    a, b = turned(spec(xpos()), q, q, Sizes(60000, 60000))
    assert a.isfinite().all()
    assert b.isfinite().all()
    long = torch.zeros(1, 1, 1, 2).expand(1, 1, 200000, 2)
    with pytest.raises(CallError, match="leave the range of float32"):
        turned(spec(xpos()), long, long, Sizes(200000, 200000))
    with pytest.raises(CallError, match="leave the range of float32"):
        rotate(q[:, :, :2], torch.tensor([0, 300000]), xpos(), "q", 0.0)
    with pytest.raises(CallError, match="leave the range of float16"):
        rotate(q[:, :, :1].half(), torch.tensor([5000]), xpos(), "q", 0.0)
    turned(spec(xpos(65536.0)), long, long, Sizes(200000, 200000))


# YaRN


def test_the_ramp_of_the_paper() -> None:
    """Pairs that turn more than 32 times in the original length stay, those under once are stretched (eq. 17 to 22)."""
    plain = unit_turns(64)
    turns = 4096 * np.angle(plain) / (2 * math.pi)
    got = frequencies(yarn(ramp="rotations"), 64).numpy()
    gamma = np.clip((turns - 1) / 31, 0, 1)
    np.testing.assert_allclose(got, (1 - gamma) * np.angle(plain) / 16 + gamma * np.angle(plain), rtol=1e-12)
    assert 0 < ((gamma > 0) & (gamma < 1)).sum() < 32
    step = frequencies(yarn(ramp="rotations", beta_fast=2.0, beta_slow=2.0), 64).numpy()
    np.testing.assert_allclose(step, np.angle(plain) / np.where(turns >= 2, 1, 16), rtol=1e-12)
    assert frequencies(yarn(beta_fast=2.0, beta_slow=2.0), 64).isfinite().all()


def test_the_attention_factor_is_folded_into_both_sides() -> None:
    assert attention_factor(yarn(), 64) == pytest.approx(0.1 * math.log(16) + 1)
    assert attention_factor(yarn(attention_factor=1.5), 64) == 1.5
    assert attention_factor(rope(), 64) == 1.0
    x = torch.randn(1, 1, 9, 64, dtype=torch.float64)
    norm = rotate(x, range(9), yarn(), "k").norm(dim=-1) / x.norm(dim=-1)
    torch.testing.assert_close(norm, torch.full_like(norm, 0.1 * math.log(16) + 1))


@pytest.mark.parametrize("theta", [10000.0, 150000.0])
@pytest.mark.parametrize("factor", [4.0, 16.0, 32.0])
@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize("dim", [64, 128])
def test_yarn_is_that_of_hugging_face(theta: float, factor: float, truncate: bool, dim: int) -> None:
    pytest.importorskip("transformers")
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    parameters = {
        "rope_type": "yarn",
        "rope_theta": theta,
        "factor": factor,
        "original_max_position_embeddings": 4096,
        "truncate": truncate,
    }
    config = LlamaConfig(
        hidden_size=dim, num_attention_heads=1, rope_parameters=parameters, max_position_embeddings=int(4096 * factor)
    )
    embed = LlamaRotaryEmbedding(config)
    rotation = yarn(theta=theta, factor=factor, truncate=truncate)
    got = frequencies(rotation, dim)
    torch.testing.assert_close(got.float(), embed.inv_freq, rtol=2e-6, atol=0)
    assert attention_factor(rotation, dim) == pytest.approx(embed.attention_scaling)
    q = torch.randn(1, 1, 64, dim)
    cos, sin = embed(q, torch.arange(64)[None])
    want, _ = apply_rotary_pos_emb(q, q, cos, sin)
    torch.testing.assert_close(rotate(q, range(64), rotation, "q"), want, atol=1e-4, rtol=0)


def test_rope_is_that_of_llama() -> None:
    pytest.importorskip("transformers")
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    embed = LlamaRotaryEmbedding(LlamaConfig(hidden_size=128, num_attention_heads=2, max_position_embeddings=512))
    q, k = torch.randn(2, 2, 2, 100, 64).unbind(0)
    cos, sin = embed(q, torch.arange(100)[None])
    for x, want, side in zip((q, k), apply_rotary_pos_emb(q, k, cos, sin), ("q", "k"), strict=True):
        torch.testing.assert_close(rotate(x, range(100), rope(), side), want, atol=5e-5, rtol=0)


# Positions, and what does not fit


def test_positions_that_restart_with_each_document() -> None:
    local = e.Add((K, e.Mul(e.Int(-1), e.Read("doc.first", (e.Var("b"), K)))))
    first = torch.tensor([[0, 0, 2, 2, 2], [0, 1, 1, 1, 1]], dtype=torch.int32)
    got = places(local, "k", Sizes(5, 5, batch=2), {"doc.first": first})
    assert isinstance(got, Tensor)
    assert got[:, 0, :, 0].tolist() == [[0, 1, 0, 1, 2], [0, 0, 1, 2, 3]]
    k = torch.randn(2, 2, 5, 4, dtype=torch.float64)
    q = torch.randn(2, 4, 5, 4, dtype=torch.float64)
    a, b = turned(spec(rope(k=local)), q, k, Sizes(5, 5, 4, 2, 2), {"doc.first": first})
    torch.testing.assert_close(a, rotate(q, torch.arange(5), rope(), "q"))
    torch.testing.assert_close(b[:, :, 3:4], rotate(k[:, :, 3:4], torch.tensor([[1], [2]]), rope(), "k"))


def test_positions_of_queries_at_the_end_and_by_head() -> None:
    assert places(Q, "q", Sizes(10, 3), {}) == range(7, 10)
    assert places(Q, "q", Sizes(10, 3, aligned_end=False), {}) == range(3)
    assert places(K, "k", Sizes(10, 3), {}) == range(10)
    by_head = places(e.Mul(Q, e.Var("h")), "q", Sizes(4, 2, heads=3), {})
    assert isinstance(by_head, Tensor)
    assert by_head[..., 0].tolist() == [[[0, 0], [2, 3], [4, 6]]]
    constant = places(e.Int(7), "k", Sizes(3, 3), {})
    assert isinstance(constant, Tensor)
    assert constant[0, 0, :, 0].tolist() == [7, 7, 7]
    q, k = torch.randn(1, 4, 3, 4), torch.randn(1, 2, 3, 4)
    with pytest.raises(CallError, match="heads are shared"):
        turned(spec(rope(k=e.Mul(K, e.Var("h")))), q, k, Sizes(3, 3, 4, 2))


def test_normalized_vectors_have_length_one_and_zero_stays_zero() -> None:
    x = torch.randn(1, 1, 4, 8, dtype=torch.float16)
    x[0, 0, 2] = 0.0
    q, k = turned(spec(normalized=("k",)), x, x, Sizes(4, 4))
    assert q is x
    torch.testing.assert_close(k.float().norm(dim=-1), torch.tensor([[[1.0, 1.0, 0.0, 1.0]]]), atol=2e-3, rtol=0)


def test_heads_that_do_not_fit() -> None:
    with pytest.raises(CallError, match="must be even"):
        rotated_dims(rope(), 7)
    with pytest.raises(CallError, match="16 dimensions are to be turned, but the head size is 8"):
        rotate(torch.randn(1, 1, 2, 8), range(2), rope(dims=16), "q")
