"""Mixtures: one softmax for each branch, combined by their denominators, against dense attention in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.marks import slow
from tests.support.oracle import agree, close, tensors
from tests.support.pass_strategies import by_way, choosing
from tests.support.patterns import MIXTURES
from tests.support.targets import MOSTLY_CPP, TARGETS, compiled, results, threads

# Threads, keys, queries, key heads and batch.
CPP = (
    *((1, 150, 150, 4, 1), (3, 130, 70, 2, 1), (1, 1, 1, 1, 1), (1, 40, 90, 2, 1)),
    *((3, 33, 33, 1, 1), (3, 150, 150, 1, 2), (3, 150, 150, 2, 1)),
)
DECODE = ((3, 45, 1, 4, 1),)  # one query has a kernel of its own
TRITON = ((1, 45, 45, 2, 1), (1, 120, 120, 2, 1), (1, 70, 30, 4, 1), (1, 1, 1, 1, 1))
KERNELS = [
    *(slow(name, "cpp", CPP) if name == "passes that differ by head" else (name, "cpp", CPP) for name in MIXTURES),
    *((name, "triton", TRITON[:1]) for name in ("longnet detached",)),
    *(slow(name, "triton", TRITON) for name in MIXTURES),
    *(slow(name, "cpp", DECODE) for name in MIXTURES),
]


@pytest.mark.parametrize(("name", "target", "calls"), KERNELS)
def test_kernels(name: str, target: str, calls: tuple[tuple[int, int, int, int, int], ...]) -> None:
    attend = compiled(MIXTURES[name], target)
    for count, n, n_q, kv_heads, batch in calls:
        with threads(count):
            agree(attend, *tensors(n, n_q, 4, kv_heads, batch))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("longnet", torch.bfloat16), slow("overlapping, detached", torch.float16)],
)
def test_other_types(name: str, dtype: torch.dtype) -> None:
    attend = compiled(MIXTURES[name], "cpp")
    for n, n_q in ((150, 150), (70, 21)):
        agree(attend, *tensors(n, n_q, heads=4, kv_heads=2, dim=24, dim_v=17, dtype=dtype))


SINKS = [
    ("cpp", "", "branch times 2 { attend k < 5 }"),
    ("cpp", " weights detached", ""),
    slow("cpp", "", ""),
    slow("cpp", " weights detached", "branch times 2 { attend k < 5 }"),
    ("triton", "", "branch times 2 { attend k < 5 }"),
    ("triton", " weights detached", ""),
    slow("triton", "", ""),
    slow("triton", " weights detached", "branch times 2 { attend k < 5 }"),
]


@pytest.mark.parametrize(("target", "weights", "second"), SINKS)
def test_sinks(target: str, weights: str, second: str) -> None:
    """A sink has its share in the weights of all branches, even of a single one."""
    mix = f"mix{weights} {{ branch {{ attend window(20) }} {second} }}"
    attend = compiled(f"attention a {{ input logit: float[heads]  sink logit[h]  {mix} }}", target)
    for n, n_q in {"cpp": ((60, 60), (40, 20), (20, 40)), "triton": ((40, 40),)}[target]:
        agree(attend, *tensors(n, n_q, heads=4, kv_heads=2), inputs={"logit": torch.tensor([0.5, -1.0, 2.0, 0.0])})


@pytest.mark.parametrize("number", [1, slow(2)])
def test_rates_that_do_not_divide_the_segment(number: int) -> None:
    """Segments of 16 and a rate of 6, in every layout, with rows that see nothing in most heads."""
    text = "attention a { mix (w, r) in [(8, 1), (16, 6)] { let taken(i) = i % w % r == h % r"
    text += " attend causal and segment(w) and taken(q) and taken(k) } }"
    attend = compiled(by_way(text, number), "cpp")
    with choosing(number):
        layout = str(attend.plan.passes[1].layout)
        assert layout.startswith(("identity", "comb(every 6-th of segments of 16)", "grid")[number])
        for n, n_q, kv_heads in ((150, 150, 8), (100, 37, 2), (1, 1, 1)):
            agree(attend, *tensors(n, n_q, heads=8, kv_heads=kv_heads))


# What follows of mixtures from others, at this length.
N = 60


def of(text: str, target: str) -> list[torch.Tensor]:
    return results(compiled(f"attention a {{ {text} }}", target), *tensors(N))


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    for what, one, other in zip(("out", "lse", "dq", "dk", "dv"), a, b, strict=True):
        close(what, one.nan_to_num(neginf=-99.0), other.nan_to_num(neginf=-99.0), 3e-5)


@pytest.mark.slow
@pytest.mark.parametrize("target", MOSTLY_CPP)
def test_disjoint_branches_are_a_union(target: str) -> None:
    mixed = of("mix { branch { attend window(7) } branch { attend q - k >= 20 } }", target)
    same(mixed, of("attend window(7)  attend q - k >= 20", target))


@pytest.mark.slow
@pytest.mark.parametrize("target", MOSTLY_CPP)
def test_a_branch_that_counts_twice_is_two_branches(target: str) -> None:
    twice = of("mix { branch { attend causal } branch times 2 { attend window(9) } }", target)
    same(twice, of("mix i in [60, 9, 9] { attend window(i) }", target))


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_counting_everything_twice_only_moves_the_lse(target: str) -> None:
    twice, once = of("mix { branch times 2 { attend window(9) } }", target), of("attend window(9)", target)
    close("out", twice[0], once[0], 3e-5)
    close("lse", twice[1], once[1].double() + np.log(2), 3e-5)


@pytest.mark.parametrize("target", MOSTLY_CPP)
def test_detached_weights_change_gradients_and_nothing_else(target: str) -> None:
    plain, detached = (compiled(MIXTURES[f"longnet{x}"], target) for x in ("", " detached"))
    (out, lse, *own), (other_out, other_lse, *others) = (results(a, *tensors(90)) for a in (plain, detached))
    close("out", other_out, out.double(), 3e-5)
    close("lse", other_lse, lse.double().nan_to_num(neginf=float("-inf")), 3e-5)
    assert all(float((a - b).abs().max()) > 1e-3 for a, b in zip(own[:2], others[:2], strict=True))
    close("dv", others[2], own[2].double(), 3e-5)


@pytest.mark.slow
@pytest.mark.parametrize("target", MOSTLY_CPP)
def test_detached_weights_with_one_branch_are_nothing_special(target: str) -> None:
    text = "mix w in [9]%s { attend window(w) }"
    same(of(text % " weights detached", target), of(text % "", target))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("weights", ["", " weights detached"])
def test_rows_that_no_branch_covers(target: str, weights: str) -> None:
    """Zeros, minus infinity and no gradient, in both forms of weights."""
    text = f"attention a {{ mix r in [2, 4]{weights} {{ attend q % r == 1 and k <= q and k % r == 1 }} }}"
    attend = compiled(text, target)
    agree(attend, *tensors(45, heads=2, kv_heads=1))
    q, k, v = tensors(45, heads=1)
    out, lse = attend(q, k, v, return_lse=True)
    assert (out[:, :, ::2] == 0).all()
    assert torch.isneginf(lse[:, :, ::2]).all()
    (dq,) = torch.autograd.grad(out.sum() + lse[:, :, 1::2].sum(), q)
    assert (dq[:, :, ::2] == 0).all()


def test_strided_tensors_and_expanded_gradients() -> None:
    attend = compiled(MIXTURES["overlapping, detached"], "cpp")
    base = torch.randn(2, 100, 3, 4, 16)
    q, k, v = (base[:, :, i].transpose(1, 2).requires_grad_() for i in range(3))
    agree(attend, q, k, v)
    expanded = torch.autograd.grad(attend(q, k, v).sum(), (q, k, v))
    plain = torch.autograd.grad(attend(q, k, v), (q, k, v), torch.ones(2, 4, 100, 16))
    assert all(torch.equal(a, b) for a, b in zip(expanded, plain, strict=True))
