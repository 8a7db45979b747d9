"""Few queries: the kernel of its own that computes them, against dense attention in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import attnspec
from attnspec.relation.sizes import Sizes
from attnspec.runtime.attention import Attention
from attnspec.runtime.cpp import prepared
from attnspec.runtime.prepare.example import example
from attnspec.spec.axes import lengths
from tests.support.oracle import agree, tensors
from tests.support.pass_strategies import by_way, choosing, laid_cases
from tests.support.patterns import LAYOUTS, MIXTURES, PATTERNS
from tests.support.shipped import SMALL, SOFTMAX
from tests.support.strategies import Case, cases
from tests.support.targets import compiled, threads

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
# Keys that end inside a block, an input by entry, a score that tells heads apart which the mask does not.
MIXED = """attention few {
    input length: int[batch]
    input slope: float[heads]
    attend window(70)  attend k < 3
    within k < length and q % 7 != 3
    score s + slope[h] * (k - q)
}"""


def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The directions of the kernels that are asked for from now on."""
    found: list[str] = []
    load = prepared.native
    for kept in (prepared.forward, prepared.moving, prepared.backward):
        kept.cache_clear()
    monkeypatch.setattr(
        prepared, "native", lambda program, key, sizes: found.append(key.direction) or load(program, key, sizes)
    )
    return found


def mixed(n: int, n_q: int, heads: int, kv_heads: int, batch: int, **more: Any) -> tuple[Any, dict[str, Tensor]]:
    length = torch.tensor([n - 11 * b for b in range(batch)])
    slope = torch.linspace(0.01, 0.3, heads).requires_grad_()
    return tensors(n, n_q, heads, kv_heads, batch, 24, 17, **more), {"length": length, "slope": slope}


@pytest.mark.parametrize(
    "dtype", [F32, pytest.param(BF16, marks=pytest.mark.slow), pytest.param(F16, marks=pytest.mark.slow)]
)
def test_rows_of_a_group(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row to many, heads that share keys in all numbers, whatever the number of threads; also the gradients."""
    attend, directions = compiled(MIXED, "cpp"), used(monkeypatch)
    for count, n, n_q, heads, kv_heads, batch in (
        *((1, 300, 1, 1, 1, 1), (1, 300, 1, 8, 2, 2), (2, 129, 1, 12, 1, 1), (3, 90, 3, 7, 1, 1), (1, 40, 5, 4, 4, 3)),
        *((2, 333, 12, 8, 1, 1), (1, 13, 12, 6, 2, 2), (3, 64, 9, 3, 1, 1)),
    ):
        given, inputs = mixed(n, n_q, heads, kv_heads, batch, dtype=dtype)
        with threads(count):
            agree(attend, *given, inputs=inputs)
    assert set(directions) == {"decode", "backward"}
    agree(attend, *mixed(30, 30, 2, 1, 1, dtype=dtype)[0], inputs=mixed(30, 30, 2, 1, 1)[1])
    assert "forward" in directions


def test_what_is_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule: up to so many queries, fewer than keys, in no computed order."""
    directions = used(monkeypatch)

    def ask(text: str, n: int, n_q: int, dtype: torch.dtype = F32) -> str:
        with pytest.raises(NotImplementedError):
            compiled(text, "cpp")(*(t.detach() for t in tensors(n, n_q, dtype=dtype)))
        return directions[-1]

    monkeypatch.setattr(prepared, "native", lambda _, key, __: directions.append(key.direction) or _no_kernel())
    causal, order = "attention a { attend causal }", "attention b { order by lsh(buckets = 8, rounds = 1) }"
    assert [ask(causal, 40, n_q) for n_q in (1, 24, 25)] == ["decode", "decode", "forward"]
    assert [ask(causal, 40, n_q, F16) for n_q in (1, 24, 25)] == ["decode", "decode", "forward"]
    assert [ask(causal, 40, n_q, BF16) for n_q in (1, 12, 13)] == ["decode", "decode", "forward"]
    assert [ask(causal, n, 7) for n in (8, 7, 6)] == ["decode", "forward", "forward"]
    assert ask(order, 7, 7) == "forward"


def _no_kernel() -> None:
    raise NotImplementedError


def bits(attend: Attention, count: int, *given: Tensor, **inputs: Tensor) -> list[Tensor]:
    with threads(count):
        return list(attend(*given, return_lse=True, return_max=True, inputs=inputs))


def test_bits_do_not_depend_on_threads() -> None:
    """Keys are shared out in chunks; more threads than key heads share the chunks of one."""
    attend = compiled(MIXED.replace("window(70)", "causal"), "cpp")
    for n, n_q, heads, kv_heads in ((5000, 1, 4, 1), (2600, 4, 4, 2), (300, 1, 8, 4)):
        given, inputs = mixed(n, n_q, heads, kv_heads, 1)
        given = tuple(t.detach() for t in given)
        one = bits(attend, 1, *given, **inputs)
        for count in (2, 3, 7):
            assert all(torch.equal(a, b) for a, b in zip(one, bits(attend, count, *given, **inputs), strict=True))


def test_numbers_that_nobody_sees_have_no_effect() -> None:
    """NaN and infinity in hidden keys and values; a value that some rows see and others of the block do not."""
    attend = compiled(MIXED, "cpp")
    (q, k, v), inputs = mixed(200, 6, 4, 2, 2)
    q, k, v = (t.detach() for t in (q, k, v))
    hidden = ~attend.mask(200, 6, 4, 2, 2, inputs=inputs)
    unseen = hidden.all(2).view(2, 2, 2, 200).all(2)
    assert unseen.any()
    spoilt_k, spoilt_v = k.clone(), v.clone()
    spoilt_k[unseen], spoilt_v[unseen] = torch.nan, torch.inf
    assert torch.equal(attend(q, k, v, inputs=inputs), attend(q, spoilt_k, spoilt_v, inputs=inputs))
    spoilt_v[:, :, 130] = torch.inf  # the last query that sees it is at 199
    out, clean = attend(q, k, spoilt_v, inputs=inputs), attend(q, k, v, inputs=inputs)
    sees = ~hidden[..., 130]
    assert sees.any()
    assert not sees.all()
    assert torch.isinf(out[sees]).all()
    assert torch.equal(out[~sees], clean[~sees])


def test_scores_of_any_size() -> None:
    """Rows whose scores are all hugely negative have the mean of the values; one huge score has its value."""
    attend = compiled("attention a { input bias: float[n_q, n]  score s + bias[q, k] }", "cpp")
    q, k, v = (t.detach() for t in tensors(1500, 4, 4, 2))
    bias = torch.zeros(4, 1500)
    bias[0], bias[1], bias[2, 700], bias[3, 1100:] = -1e9, torch.finfo(F32).min, 1e9, -torch.inf
    for count in (1, 3):
        out = bits(attend, count, q * 0, k, v, bias=bias)[0]
        torch.testing.assert_close(
            out[:, :, :2], v.mean(2).repeat_interleave(2, 1)[:, :, None].expand(-1, -1, 2, -1), atol=1e-5, rtol=0
        )
        assert torch.equal(out[:, :, 2], v[:, :, 700].repeat_interleave(2, 1))
        torch.testing.assert_close(out[:, :, 3], v[:, :, :1100].mean(2).repeat_interleave(2, 1), atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("text", [MIXED, "attention a { attend window(16)  attend strided(16)  within causal }"])
def test_largest_scores(text: str) -> None:
    """By one pass and by two."""
    (q, k, v), inputs = mixed(200, 5, 4, 2, 2)
    given, inputs = [t.detach() for t in (q, k, v)], inputs if "length" in text else {}
    exact = attnspec.compile(text, target="dense")(*(t.double() for t in given), return_max=True, inputs=inputs)[1]
    largest = compiled(text, "cpp")(*given, return_max=True, inputs=inputs)[1]
    torch.testing.assert_close(largest, exact.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [F32, BF16])
def test_parts_that_are_added_in_place(dtype: torch.dtype) -> None:
    """A ring of keys is two parts: few queries go on from what is there."""
    attend = compiled("attention a { attend window(120)  attend k < 3 }", "cpp")
    q, k, v = (t.detach() for t in tensors(333, 4, 8, 2, 2, 40, 24, dtype=dtype))
    whole, lse = attend(q, k, v, return_lse=True)
    for count in (1, 3):
        out, sums = torch.zeros(2, 8, 4, 24), torch.full((2, 8, 4), -torch.inf)
        for start, end in ((0, 50), (200, 333), (50, 200)):
            part = k[:, :, start:end], v[:, :, start:end]
            with threads(count):
                attend.part(q, *part, q_start=329, k_start=start, n=333, n_q=4, out=out, lse=sums)
        torch.testing.assert_close(out.to(dtype), whole, atol=1e-6 if dtype == F32 else 8e-3, rtol=1e-5)
        torch.testing.assert_close(sums, lse, atol=1e-5, rtol=1e-5)


SIZES = ((1, 130, 1, 4, 2, 2), (2, 333, 5, 4, 2, 1), (3, 150, 12, 4, 1, 1), (1, 2500, 2, 4, 4, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PATTERNS, *MIXTURES])
@pytest.mark.parametrize(("dtype", "dims"), [(F32, (16, 16)), (BF16, (80, 40)), (F16, (17, 64))])
def test_patterns(name: str, dtype: torch.dtype, dims: tuple[int, int]) -> None:
    attend = compiled({**PATTERNS, **MIXTURES}[name], "cpp")
    for count, n, n_q, heads, kv_heads, batch in SIZES:
        with threads(count):
            agree(attend, *tensors(n, n_q, heads, kv_heads, batch, *dims, dtype=dtype))


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name: str) -> None:
    clause, number, layouts = LAYOUTS[name]
    tile = {"tile": None} if "grid" in str(layouts) else {}
    attend = compiled(by_way(f"attention a(rates = [1, 2, 4, 3]) {{ {clause} }}", number), "cpp", **tile)
    with choosing(number):
        for count, n, n_q, heads, kv_heads, batch in SIZES:
            with threads(count):
                agree(attend, *tensors(n, n_q, heads, kv_heads, batch))


@pytest.mark.slow
@pytest.mark.parametrize("name", SOFTMAX)
def test_shipped(name: str) -> None:
    attend = compiled(name, "cpp", params=SMALL.get(name, {}))
    spec = attend.spec
    if spec.order is not None:
        pytest.skip("as many queries as keys")
    for n, n_q in ((300, 1), (257, 6)):
        sizes = Sizes(n, n_q, 4, 2, 2, spec.align == "end")
        if spec.axes:
            keys, queries = lengths(spec.axes, n)
            sizes = replace(sizes, n=keys, n_q=queries, m=n)
        inputs = example(spec, sizes, torch.Generator().manual_seed(0))
        inputs = {key: t.requires_grad_(t.is_floating_point()) for key, t in inputs.items()}
        agree(attend, *tensors(sizes.n, sizes.n_q, 4, 2, 2, 32), inputs=inputs)


@pytest.mark.slow
@given(cases(), st.integers(1, 12), st.sampled_from([1, 2, 4]), st.sampled_from([F32, BF16, F16]), st.integers(1, 3))
def test_generated(case: Case, n_q: int, kv_heads: int, dtype: torch.dtype, count: int) -> None:
    attend = compiled(case.text, "cpp", params=case.params)
    for n in (n_q + case.n, 7 * case.n + 40):
        with threads(count):
            agree(attend, *tensors(n, n_q, 4, kv_heads, 2, 17, 24, dtype=dtype, seed=n))


@pytest.mark.slow
@given(cases(inputs=True), st.sampled_from([1, 2]), st.integers(1, 3))
def test_generated_inputs(case: Case, kv_heads: int, count: int) -> None:
    """With as many queries as the case has inputs for: some are few."""
    if case.heads % kv_heads:
        return
    attend = compiled(case.text, "cpp", params=case.params)
    given = tensors(case.n, case.n_q, case.heads, kv_heads, case.batch, seed=case.n)
    with threads(count):
        agree(attend, *given, inputs={name: torch.from_numpy(array) for name, array in case.inputs.items()})


@pytest.mark.slow
@given(laid_cases(), st.integers(0, 12), st.integers(1, 12), st.booleans(), st.sampled_from([1, 2, 4]))
def test_generated_layouts(case: Case, number: int, n_q: int, detached: bool, kv_heads: int) -> None:
    text = case.text.replace("mix {", "mix weights detached {") if detached else case.text
    attend = compiled(by_way(text, number), "cpp")
    with choosing(number):
        for count, n in ((1, case.n + n_q), (3, case.n * 5 + 40)):
            with threads(count):
                agree(attend, *tensors(n, n_q, 4, kv_heads, seed=n))
