"""Sums over features, over the plans of patterns: out, totals of weights and gradients against the dense formula."""

from __future__ import annotations

import pytest
import torch

from attnspec.runtime.attention import Attention
from attnspec.runtime.core.request import Call
from attnspec.runtime.linear.sums import Given, gradients, sums
from tests.support.linear import agree, features
from tests.support.marks import slow
from tests.support.pass_strategies import by_way, choosing
from tests.support.patterns import LAYOUTS, MIXTURES, PATTERNS
from tests.support.targets import compiled, threads

QUICK = ("both",)


@pytest.mark.parametrize("name", [name if name in QUICK else slow(name) for name in PATTERNS])
def test_patterns_and_lengths(name: str) -> None:
    attend = compiled(PATTERNS[name], "cpp")
    for n, n_q in ((333, 70), (200, 200), (40, 150), (1, 1)):
        agree(attend, *features(n, n_q, heads=4, kv_heads=2))


@pytest.mark.parametrize("name", [slow(name) for name in LAYOUTS])
def test_layouts_and_passes(name: str) -> None:
    clause, number, layouts = LAYOUTS[name]
    tile = {"tile": None} if "grid" in str(layouts) else {}
    attend = compiled(by_way(f"attention a(rates = [1, 2, 4, 3]) {{ {clause} }}", number), "cpp", **tile)
    with choosing(number):
        for n, n_q, kv_heads in ((300, 300, 4), (210, 33, 2), (50, 90, 1)):
            with threads(1 + kv_heads % 2):
                agree(attend, *features(n, n_q, heads=4, kv_heads=kv_heads), divides=(True,))


@pytest.mark.parametrize("name", [slow(name) for name in MIXTURES if "detached" not in name])
def test_pairs_of_mixtures_count_as_often_as_branches_say(name: str) -> None:
    attend = compiled(MIXTURES[name], "cpp")
    for n, n_q, kv_heads in ((200, 200, 4), (90, 33, 2)):
        agree(attend, *features(n, n_q, heads=4, kv_heads=kv_heads))


DOCUMENTS = "attention packed { input doc: int[batch, n] sorted  attend causal and doc[q] == doc[k] }"


@pytest.mark.slow
@pytest.mark.parametrize("text", [DOCUMENTS, slow("attention a { input far: bool[n]  attend causal and not far[k] }")])
def test_inputs(text: str) -> None:
    attend = compiled(text, "cpp")
    lengths = torch.tensor([3, 150, 1, 64, 200, 82])
    doc = torch.repeat_interleave(torch.arange(6), lengths)[None].repeat(2, 1)
    doc[1] = torch.arange(500) // 130
    inputs = {"doc": doc} if "doc" in text else {"far": torch.arange(500) % 7 == 2}
    agree(attend, *features(500, heads=2, kv_heads=1, batch=2), inputs=inputs, divides=(True,))


SIZES = [
    (17, 40, torch.bfloat16),
    slow(64, 64, torch.float16),
    *(slow(m, d, torch.float32) for m, d in ((1, 1), (8, 8), (64, 64), (65, 33), (128, 256), (300, 20), (16, 129))),
    *(slow(m, d, torch.bfloat16) for m, d in ((64, 64), (33, 65))),
]


@pytest.mark.parametrize(("dim", "dim_v", "dtype"), SIZES)
def test_sizes_and_types(dim: int, dim_v: int, dtype: torch.dtype) -> None:
    attend = compiled(PATTERNS["window"], "cpp")
    a, b, v = features(250, 250, heads=2, kv_heads=1, dim=dim, dim_v=dim_v, dtype=dtype)
    agree(attend, a, b, v, divides=(True,), scale=0.5)
    if dtype is not torch.float32:  # features may be more precise than values
        a, b = (t.float() for t in (a, b))
        agree(attend, a, b, v, divides=(True,))


@pytest.mark.slow
@pytest.mark.parametrize("tile", [(16, 16), (32, 128), (128, 32), (64, 64), (512, 16)])
def test_every_tile_size(tile: tuple[int, int]) -> None:
    agree(compiled(PATTERNS["both"], "cpp", tile=tile), *features(700, 650))


def _call(attend: Attention, *tensors: torch.Tensor) -> Given:
    a, b, v = tensors
    return Given(Call(a, b, v, (), None, None, 1.0, attend.program.encoded))


def _strided(*shape: int) -> torch.Tensor:
    return torch.rand(shape).transpose(1, 2)


@pytest.mark.slow
def test_strided_tensors_are_read_in_place() -> None:
    attend = compiled(PATTERNS["causal"], "cpp")
    agree(attend, *(_strided(2, 150, 4, d) for d in (16, 16, 24)))
    agree(attend, *(torch.rand(2, 4, d, 150).transpose(2, 3) for d in (16, 16, 24)))


def test_what_is_not_finite_reaches_the_rows_that_see_it_and_no_others() -> None:
    """A state that moves on forgets what it has left."""
    attend, n, width = compiled("attention near { attend window(200) }", "cpp"), 900, 200
    a, b, v = features(n)
    v[0, 0, 300, 3] = float("nan")
    b[0, 1, 500, 2] = float("inf")
    out, *_ = sums(_call(attend, a, b, v), True, True)
    seen = torch.zeros(2, n, dtype=torch.bool)
    seen[0, 300 : 300 + width] = seen[1, 500 : 500 + width] = True
    assert torch.equal(~out[0].isfinite().all(-1), seen)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "tolerance"), [(1024, 2e-6), (1 << 20, 2e-6)])
def test_long_sequences_lose_no_digits(width: int, tolerance: float) -> None:
    """Values of mean 3 over a million keys; rows here and there are compared."""
    n = 1 << 18
    attend = compiled(f"attention near {{ attend window({width}) }}", "cpp")
    a, b = torch.rand(2, 1, 1, n, 8).unbind(0)
    v = torch.randn(1, 1, n, 8) + 3
    out, *_ = sums(_call(attend, a, b, v), False, False)
    for i in (100, 5000, n // 2, n - 1):
        keys = slice(max(0, i - width + 1), i + 1)
        want = (a[0, 0, i].double() @ b[0, 0, keys].double().T) @ v[0, 0, keys].double()
        assert float((out[0, 0, i] - want).abs().max() / want.abs().max()) < tolerance


def test_empty_tensors_and_rows() -> None:
    attend = compiled(PATTERNS["both"], "cpp")
    for n, n_q, batch in ((0, 5, 1), (5, 0, 1), (4, 4, 0)):
        a, b, v = features(n, n_q, batch=batch)
        call = _call(attend, a, b, v)
        found = sums(call, True, True)
        assert found.total is not None
        assert (found.out == 0).all()
        assert (found.total == 0).all()
        grads = gradients(call, found, True, torch.ones_like(found.out), None)[:3]
        assert [g.shape for g in grads] == [a.shape, b.shape, v.shape]


@pytest.mark.slow
def test_heads_share_a_state_where_their_patterns_are_one() -> None:
    for heads, kv_heads, batch in ((4, 2, 1), (6, 1, 2), (3, 3, 5), (8, 2, 2)):
        for number in (1, 2):
            with threads(number):
                agree(compiled(PATTERNS["causal"], "cpp"), *features(300, None, heads, kv_heads, batch))
                agree(compiled(PATTERNS["affine head"], "cpp"), *features(90, 33, heads, kv_heads, batch))


GATED = """attention a {
    input gate: float[batch, heads, n]
    attend causal and (q - k) % 2 == 0
    linear x
    decay gate[b, h, t]
}"""


@pytest.mark.parametrize(
    "text", ["linear", slow("linear_window"), slow(GATED), slow("attention a { linear exp(x)  divide total }")]
)
def test_a_sequence_is_cut_where_heads_are_fewer_than_threads(text: str) -> None:
    """Results are the same but for rounding."""
    n, attend = 3000, compiled(text, "cpp")
    given = [torch.randn(1, 1, n, 16).requires_grad_() for _ in range(3)]
    inputs = {"gate": (-1e-3 * torch.rand(1, 1, n)).requires_grad_()} if "gate" in text else {}
    found, up = [], torch.randn(1, 1, n, 16)
    for number in (1, 5):
        with threads(number):
            out = attend(*given, inputs=inputs)
            found.append([out, *torch.autograd.grad(out, [*given, *inputs.values()], up)])
    for got, want in zip(*found, strict=True):
        assert float((got - want).abs().max()) <= 1e-6 * max(1.0, float(want.abs().max()))
