"""Mixtures: one softmax for each branch, combined by their denominators, against dense attention in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attnspec
from attnspec.codegen.cost.cost import cost
from attnspec.codegen.layouts.comb import Comb
from attnspec.codegen.layouts.residue import IDENTITY, Residue
from attnspec.codegen.plan.choose import plan
from attnspec.codegen.plan.visits import counts
from attnspec.relation.lower import lower
from attnspec.relation.sizes import Sizes
from attnspec.runtime.attention import Attention
from tests.support.oracle import agree, close, tensors
from tests.support.pass_strategies import choosing, laid_cases
from tests.support.patterns import MIXTURES
from tests.support.strategies import Case

SIZES = ((150, 150), (130, 70), (1, 1), (45, 1), (40, 90), (33, 33))


def mixture(name: str) -> Attention:
    return attnspec.compile(MIXTURES[name])


@pytest.mark.parametrize("name", MIXTURES)
def test_kernels(name: str) -> None:
    attend, before = mixture(name), torch.get_num_threads()
    try:
        for number, (n, n_q) in enumerate(SIZES):
            torch.set_num_threads((1, 3)[number % 2])
            agree(attend, *tensors(n, n_q, heads=4, kv_heads=(4, 2, 1)[number % 3]))
        for kv_heads in (1, 2):
            torch.set_num_threads(3)
            agree(attend, *tensors(150, 150, heads=4, kv_heads=kv_heads, batch=2 // kv_heads))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("longnet", torch.bfloat16), ("overlapping, detached", torch.float16)],
)
def test_other_types(name: str, dtype: torch.dtype) -> None:
    attend = mixture(name)
    for n, n_q in ((150, 150), (70, 21)):
        agree(attend, *tensors(n, n_q, heads=4, kv_heads=2, dim=24, dim_v=17, dtype=dtype))


@pytest.mark.parametrize("target", ["cpp", "triton"])
@pytest.mark.parametrize("weights", ["", " weights detached"])
@pytest.mark.parametrize("second", ["", "branch times 2 { attend k < 5 }"])
def test_sinks(target: str, weights: str, second: str) -> None:
    """A sink has its share in the weights of all branches, even of a single one."""
    if target == "triton":
        pytest.importorskip("triton")
    mix = f"mix{weights} {{ branch {{ attend window(20) }} {second} }}"
    text = f"attention a {{ input logit: float[heads]  sink logit[h]  {mix} }}"
    attend = attnspec.compile(text, target=target, tile=(32, 32) if target == "triton" else None)
    for n, n_q in ((60, 60), (40, 20), (20, 40)):
        agree(attend, *tensors(n, n_q, heads=4, kv_heads=2), inputs={"logit": torch.tensor([0.5, -1.0, 2.0, 0.0])})


def test_layouts_of_published_longnet() -> None:
    """Rates 6 and 12 do not divide their segments; hardly a pair is computed in vain all the same."""
    branches = [(2048, 1), (4096, 2), (8192, 4), (16384, 6), (32768, 12)]
    made = plan(lower(attnspec.read(MIXTURES["longnet"], branches=branches)))
    assert [item.layout for item in made.passes][:3] == [IDENTITY, Residue(2), Residue(4)]
    assert [(item.layout.segment, item.layout.rate) for item in made.passes if isinstance(item.layout, Comb)] == [
        (16384, 6),
        (32768, 12),
    ]
    assert cost(made, Sizes(32768, 32768), 64, 64, 4).waste < 1.1


def test_layouts_of_longnet() -> None:
    """Each branch lies in the layout of its own rate, and each pair counts as often as there are branches with it."""
    spec = attnspec.read(MIXTURES["longnet"])
    made = plan(lower(spec))
    assert [(item.branch, item.layout) for item in made.passes] == [(0, IDENTITY), (1, Residue(2)), (2, Residue(4))]
    for n, n_q in ((150, 150), (130, 70), (40, 90), (3, 3)):
        want = spec.mask(n, n_q, 4)
        assert n < 16 or want.max() == 3
        for transposed in (False, True):
            assert (counts(made, Sizes(n, n_q, 4, 4), transposed) == want).all()


def longnet_by_hand(n: int, h: int, branches: list[tuple[int, int]]) -> np.ndarray[Any, Any]:
    """The published branches, one position after another: which pairs, and in how many branches."""
    counts = np.zeros((n, n), dtype=np.int64)
    for w, r in branches:
        for start in range(0, n, w):
            taken = [i for i in range(start, min(start + w, n)) if (i - start) % r == h % r]
            for q in taken:
                for k in taken:
                    counts[q, k] += k <= q
    return counts


@pytest.mark.parametrize("branches", [[(16, 1), (32, 2), (64, 4)], [(16, 6)], [(9, 1), (20, 3)]])
def test_longnet_as_published(branches: list[tuple[int, int]]) -> None:
    """Also where rates do not divide the segments, and the positions that a head takes shift from one to the next."""
    spec = attnspec.read(MIXTURES["longnet"], branches=branches)
    want = np.stack([longnet_by_hand(150, h, branches) for h in range(4)])
    assert (spec.mask(150, heads=4)[0] == want).all()
    made = plan(lower(spec))
    assert (counts(made, Sizes(150, 150, 4, 4))[0] == want).all()
    assert (counts(made, Sizes(150, 150, 4, 4), transposed=True)[0] == want).all()


@pytest.mark.parametrize("number", [1, 2])
def test_rates_that_do_not_divide_the_segment(number: int) -> None:
    """Segments of 16 and a rate of 6, in every layout, with rows that see nothing in most heads."""
    text = "attention a { mix (w, r) in [(8, 1), (16, 6)] { let taken(i) = i % w % r == h % r"
    attend = attnspec.compile(f"# way {number}\n{text} attend causal and segment(w) and taken(q) and taken(k) }} }}")
    with choosing(number):
        layout = str(attend.plan.passes[1].layout)
        assert layout.startswith(("identity", "comb(every 6-th of segments of 16)", "grid")[number])
        for n, n_q, kv_heads in ((150, 150, 8), (100, 37, 2), (1, 1, 1)):
            agree(attend, *tensors(n, n_q, heads=8, kv_heads=kv_heads))


def results(attend: Attention, n: int = 90) -> list[torch.Tensor]:
    q, k, v = tensors(n, heads=2)
    out, lse = attend(q, k, v, return_lse=True)
    safe = lse.nan_to_num(neginf=0.0)
    return [out, lse, *torch.autograd.grad((out * out.cos()).sum() + safe.sin().sum(), (q, k, v))]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    for what, one, other in zip(("out", "lse", "dq", "dk", "dv"), a, b, strict=True):
        close(what, one.nan_to_num(neginf=-99.0), other.nan_to_num(neginf=-99.0), 3e-5)


def test_disjoint_branches_are_a_union() -> None:
    mixed = attnspec.compile("attention a { mix { branch { attend window(7) } branch { attend q - k >= 20 } } }")
    union = attnspec.compile("attention a { attend window(7)  attend q - k >= 20 }")
    same(results(mixed), results(union))


def test_a_branch_that_counts_twice_is_two_branches() -> None:
    twice = attnspec.compile("attention a { mix { branch { attend causal } branch times 2 { attend window(9) } } }")
    two = attnspec.compile("attention a { mix i in [90, 9, 9] { attend window(i) } }")
    same(results(twice), results(two))


def test_counting_everything_twice_only_moves_the_lse() -> None:
    twice = results(attnspec.compile("attention a { mix { branch times 2 { attend window(9) } } }"))
    once = results(attnspec.compile("attention a { attend window(9) }"))
    close("out", twice[0], once[0], 3e-5)
    close("lse", twice[1], once[1].double() + np.log(2), 3e-5)


def test_detached_weights_change_gradients_and_nothing_else() -> None:
    (out, lse, *own), (other_out, other_lse, *others) = (results(mixture(f"longnet{x}")) for x in ("", " detached"))
    close("out", other_out, out.double(), 3e-5)
    close("lse", other_lse, lse.double().nan_to_num(neginf=float("-inf")), 3e-5)
    assert all(float((a - b).abs().max()) > 1e-3 for a, b in zip(own[:2], others[:2], strict=True))
    close("dv", others[2], own[2].double(), 3e-5)


def test_detached_weights_with_one_branch_are_nothing_special() -> None:
    text = "attention a { mix w in [9]%s { attend window(w) } }"
    same(results(attnspec.compile(text % " weights detached")), results(attnspec.compile(text % "")))


def test_rows_that_no_branch_covers() -> None:
    """Zeros, minus infinity and no gradient, in both forms of weights."""
    for extra in ("", " weights detached"):
        text = f"attention a {{ mix r in [2, 4]{extra} {{ attend q % r == 1 and k <= q and k % r == 1 }} }}"
        attend = attnspec.compile(text)
        agree(attend, *tensors(70, heads=2, kv_heads=1))
        q, k, v = tensors(70)
        out, lse = attend(q, k, v, return_lse=True)
        assert (out[:, :, ::2] == 0).all()
        assert torch.isneginf(lse[:, :, ::2]).all()
        (dq,) = torch.autograd.grad(out.sum() + lse[:, :, 1::2].sum(), q)
        assert (dq[:, :, ::2] == 0).all()


def test_strided_tensors_and_expanded_gradients() -> None:
    attend = mixture("overlapping, detached")
    base = torch.randn(2, 100, 3, 4, 16)
    q, k, v = (base[:, :, i].transpose(1, 2).requires_grad_() for i in range(3))
    agree(attend, q, k, v)
    expanded = torch.autograd.grad(attend(q, k, v).sum(), (q, k, v))
    plain = torch.autograd.grad(attend(q, k, v), (q, k, v), torch.ones(2, 4, 100, 16))
    assert all(torch.equal(a, b) for a, b in zip(expanded, plain, strict=True))


@settings(max_examples=max(2, settings().max_examples // 40))
@given(laid_cases(), st.integers(0, 8), st.booleans(), st.sampled_from([1, 2, 4]))
def test_generated_mixtures(case: Case, number: int, detached: bool, kv_heads: int) -> None:
    text = case.text.replace("mix {", "mix weights detached {") if detached else case.text
    attend, before = attnspec.compile(f"# way {number}\n{text}"), torch.get_num_threads()
    try:
        with choosing(number):
            for threads, n, n_q in ((1, case.n, case.n_q), (3, case.n * 3 + 2, case.n_q * 3 + 1)):
                torch.set_num_threads(threads)
                agree(attend, *tensors(n, n_q, 4, kv_heads, seed=n))
    finally:
        torch.set_num_threads(before)
