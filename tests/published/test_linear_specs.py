"""Every shipped spec without plain softmax, and its gradients, against the published definition written out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.check.check import check_text
from attnspec.relation.sizes import Sizes
from attnspec.runtime.linear.favor import drawn
from attnspec.runtime.prepare.example import example
from tests.published import recurrences as published
from tests.support.marks import slow
from tests.support.shipped import SOFTMAX

N, DIM, HEADS = 11, 4, 3
DOC = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 4, 5, 5], [2] * 11])
Published = Callable[[Tensor, Tensor, Tensor, Mapping[str, Any]], Tensor]


def gates(*shape: int) -> Tensor:
    return -torch.rand(2, HEADS, N, *shape, dtype=torch.float64)


def causal(near: Callable[[int, int], bool] = lambda i, j: True) -> list[list[int]]:
    return [[j for j in range(i + 1) if near(i, j)] for i in range(N)]


def documents(q: Tensor, k: Tensor, v: Tensor, given: Mapping[str, Any]) -> Tensor:
    def entry(b: int) -> Tensor:
        doc = given["doc"][b].tolist()
        return published.linear(*(x[b : b + 1] for x in (q, k, v)), causal(lambda i, j: doc[i] == doc[j]))

    return torch.cat([entry(0), entry(1)])


def performer(kind: str) -> Published:
    return lambda q, k, v, given: published.performer(q, k, v, given["projection"], kind)


@dataclass
class Case:
    """What a spec is compared with, its parameters and inputs."""

    published: Published
    params: dict[str, Any] = field(default_factory=dict)
    inputs: Callable[[], dict[str, Tensor]] = dict


ROWS = Case(performer("performer"), {"features": 10}, lambda: {"projection": drawn(10, DIM, 3, "norm")})
CASES = {
    "linear": Case(lambda q, k, v, _: published.linear(q, k, v, causal())),
    "linear_window": Case(lambda q, k, v, _: published.linear(q, k, v, causal(lambda i, j: i - j < 3)), {"width": 3}),
    "linear_dilated": Case(
        lambda q, k, v, _: published.linear(q, k, v, causal(lambda i, j: i - j < 6 and (i - j) % 2 == 0)),
        {"width": 3, "rate": 2},
    ),
    "linear_documents": Case(documents, inputs=lambda: {"doc": DOC}),
    "performer": ROWS,
    "performer_causal": Case(performer("performer_causal"), ROWS.params, ROWS.inputs),
    "performer_google": Case(performer("performer_google"), ROWS.params, ROWS.inputs),
    "latte": Case(lambda q, k, v, _: published.latte(q, k, v)),
    "latte_bidirectional": Case(lambda q, k, v, _: published.latte_bidirectional(q, k, v)),
    "tost": Case(lambda q, k, v, _: v.cumsum(2)),
    "retention": Case(lambda q, k, v, _: published.retention(q, k, v)),
    "mamba2": Case(
        lambda q, k, v, g: published.recurrent(q, k, v, lambda t: g["log_a"][:, :, t, None, None].exp()),
        inputs=lambda: {"log_a": gates()},
    ),
    "gla": Case(
        lambda q, k, v, g: published.recurrent(q, k, v, lambda t: g["gate"][:, :, t, :, None].exp()),
        inputs=lambda: {"gate": gates(DIM)},
    ),
    "delta": Case(
        lambda q, k, v, g: published.delta_rule(q, k, v, g["beta"], lambda t: torch.ones(())),
        inputs=lambda: {"beta": -gates()},
    ),
    "gated_delta": Case(
        lambda q, k, v, g: published.delta_rule(q, k, v, g["beta"], lambda t: g["gate"][:, :, t, None, None].exp()),
        inputs=lambda: {"gate": gates(), "beta": -gates()},
    ),
    "forgetting": Case(
        lambda q, k, v, g: published.forgetting(q, k, v, g["gate"]), inputs=lambda: {"gate": 3 * gates()}
    ),
    "infini": Case(
        lambda q, k, v, g: published.infini(q, k, v, g["gate"], 4),
        {"segment": 4},
        lambda: {"gate": torch.randn(HEADS, dtype=torch.float64)},
    ),
    "lolcats": Case(lambda q, k, v, _: published.lolcats(q, k, v, 3), {"width": 3}),
}


def test_every_spec_without_plain_softmax_is_here() -> None:
    assert sorted(CASES) == sorted({*attnspec.shipped()} - {*SOFTMAX})


@pytest.mark.parametrize("name", CASES)
def test_a_spec_is_what_was_published(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    attend = attnspec.compile(name, params=case.params, target="dense")
    assert not attend.spec.softmax_only
    assert str(check_text(str(attend.spec))) == str(attend.spec)
    assert "20" in attend.spec.doc  # the year of its source
    q, k, v = (x.requires_grad_() for x in torch.randn(3, 2, HEADS, N, DIM, dtype=torch.float64).unbind(0))
    inputs = case.inputs()
    learned = [x.requires_grad_() for x in inputs.values() if x.is_floating_point()]
    if name.startswith("performer"):
        learned = []
    got, want = attend(q, k, v, inputs=inputs), case.published(q, k, v, inputs)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-11)
    by = torch.randn_like(want)
    sources = [v] if name == "tost" else [q, k, v, *learned]
    for mine, theirs in zip(*(torch.autograd.grad((x * by).sum(), sources) for x in (got, want)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-11)
        assert theirs.abs().max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["delta", "gated_delta", "infini"])
def test_kernels_correct_values_as_published(name: str) -> None:
    """Token by token, and all gradients."""
    case = CASES[name]
    torch.manual_seed(0)
    attend = attnspec.compile(name, params=case.params, target="cpp")
    q, k, v = (x.requires_grad_() for x in torch.randn(3, 2, HEADS, N, DIM).unbind(0))
    inputs = {key: x.float().requires_grad_() if x.is_floating_point() else x for key, x in case.inputs().items()}
    got, want = attend(q, k, v, inputs=inputs), case.published(q, k, v, inputs)
    torch.testing.assert_close(got, want, rtol=0, atol=2e-5)
    by, sources = torch.randn_like(want), [q, k, v, *inputs.values()]
    for mine, theirs in zip(*(torch.autograd.grad((x * by).sum(), sources) for x in (got, want)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))


SHORT = [
    (1, 2, 2, 1, 1),
    (1, 2, 1, 0, 3),
    (1, 2, 2, 0, 0),
    (0, 2, 2, 3, 3),
    (1, 2, 2, 3, 0),
    (2, 4, 2, 5, 3),
    (2, 4, 2, 2, 6),
]


@pytest.mark.parametrize("name", [n if n in ("gated_delta", "lolcats", "performer_causal") else slow(n) for n in CASES])
def test_calls_of_any_size_give_numbers(name: str) -> None:
    """No keys, no queries, no batch entries, more queries than keys: zeros where nothing is seen, never NaN."""
    attend = attnspec.compile(name, target="dense", params=CASES[name].params)
    for batch, heads, kv_heads, n_q, n in SHORT:
        shapes = ((batch, heads, n_q, DIM), (batch, kv_heads, n, DIM), (batch, kv_heads, n, 3))
        q, k, v = (torch.randn(shape, requires_grad=True) for shape in shapes)
        sizes = Sizes(n, n_q, heads, kv_heads, batch)
        inputs = example(attend.spec, sizes, torch.Generator().manual_seed(0), {"dim": DIM})
        out = attend(q, k, v, inputs=inputs)
        assert out.shape == (batch, heads, n_q, 3)
        for t in (out, *torch.autograd.grad(out.sum(), (q, k, v), materialize_grads=True, allow_unused=True)):
            assert t.isfinite().all()


def test_alibi_is_a_decay() -> None:
    """Scores that fall by a slope at each step (Press et al., 2022) are a decay of the slope."""
    q, k, v = torch.randn(3, 1, 6, 13, DIM, dtype=torch.float64).unbind(0)
    decaying = attnspec.compile("attention a { attend causal  decay -alibi_slope(h, heads) }", target="dense")
    for mine, theirs in zip(
        decaying(q[:, :, -7:], k, v, return_lse=True),
        attnspec.compile("alibi", target="dense")(q[:, :, -7:], k, v, return_lse=True),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
