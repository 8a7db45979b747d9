"""Score functions as score lines: what they say, and that their gradients arrive."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import pytest
import torch

import attnspec
from attnspec.flex import spec_of
from tests.support.flex_point import imported_alike

slopes = torch.nn.Parameter(torch.tensor([0.5, 0.25]))
relative = torch.nn.Parameter(torch.randn(2, 15))
by_distance = torch.nn.Parameter(torch.randn(5, 2))
by_degree = torch.nn.Parameter(torch.randn(4, 2))
distance = torch.randint(0, 5, (3, 8, 8))
degree = torch.randint(0, 4, (3, 8))
cap = torch.tensor(20.0)

NEVER = -float("inf")
SCORES = {
    "nothing": (lambda s, b, h, q, k: s, ""),
    "alibi": (lambda s, b, h, q, k: s + slopes[h] * (k - q), "score s + slopes[h] * (k - q)"),
    "slopes of the head": (
        lambda s, b, h, q, k: s - torch.exp2(-(h + 1) * 4.0) * (q - k).abs(),
        "score s - exp(-(h + 1) * 4.0 * 0.6931471805599453) * |q - k|",
    ),
    "soft cap": (lambda s, b, h, q, k: cap * torch.tanh(s / cap), "score cap * tanh(s / cap)"),
    "relative": (
        lambda s, b, h, q, k: s + relative[h, q - k + 7],
        "score s + relative[h, if q - k + 7 < 0 then q - k + 22 else q - k + 7]",
    ),
    "distances in a graph": (
        lambda s, b, h, q, k: s + by_distance[distance[b, q, k], h],
        "score s + by_distance[distance[b, q, k], h]",
    ),
    "degrees in a graph": (
        lambda s, b, h, q, k: s + by_degree[degree[b, q], h] + by_degree[degree[b, k], h],
        "score s + by_degree[degree[b, q], h] + by_degree[degree[b, k], h]",
    ),
    "activation": (lambda s, b, h, q, k: torch.where(s > 0, s, 0.1 * s), "score if s > 0 then s else s * 0.1"),
    "causal": (lambda s, b, h, q, k: torch.where(q >= k, s, NEVER), "attend q >= k\n}"),
    "causal, added": (
        lambda s, b, h, q, k: s + torch.where(q >= k, 0.0, NEVER) + 2.0 * slopes[h],
        "attend q >= k\n    score s + slopes[h] * 2.0\n}",
    ),
    "causal, filled": (lambda s, b, h, q, k: (s * 2.0).masked_fill(k > q, NEVER), "attend k <= q\n    score s * 2.0"),
    "a kernel of distances": (lambda s, b, h, q, k: s * torch.exp(-0.01 * (q - k) ** 2) - torch.sigmoid(s), "exp("),
}


@pytest.mark.parametrize(("score", "line"), SCORES.values(), ids=SCORES.keys())
def test_it_computes_the_same_and_so_do_its_gradients(score, line: str) -> None:
    found = spec_of(None, 3, 2, 8, 8, score_mod=score)
    assert line in found.text
    q, k, v = (torch.randn(3, 2, 8, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    at = [torch.arange(size).view(-1, *[1] * dims) for size, dims in ((3, 3), (2, 2), (8, 1), (8, 0))]
    wanted = score(q @ k.mT / 2, *at).softmax(-1) @ v
    out = attnspec.compile(found.text, target="dense")(q, k, v, inputs=found.inputs)
    assert torch.allclose(out, wanted, atol=1e-6)  # (what follows from positions alone PyTorch computes in float32)
    learns = [q, k, v, *(t for t in found.inputs.values() if t.requires_grad)]
    weights = torch.randn_like(out)
    for got, want in zip(
        torch.autograd.grad((out * weights).sum(), learns),
        torch.autograd.grad((wanted * weights).sum(), learns),
        strict=True,
    ):
        assert torch.allclose(got, want, atol=1e-6)


def test_mask_and_score_together() -> None:
    found = spec_of(lambda b, h, q, k: q >= k, None, 2, 8, 8, score_mod=SCORES["alibi"][0])
    assert "input slopes: float[heads]" in found.text
    assert found.text.endswith("attend q >= k\n    score s + slopes[h] * (k - q)\n}\n")
    assert found.inputs["slopes"] is slopes


def test_an_index_is_not_counted_from_the_end_where_that_is_not_seen() -> None:
    found = spec_of(
        lambda b, h, q, k: (q >= k) & (q - k < 15), 3, 2, 8, 8, score_mod=lambda s, b, h, q, k: s + relative[h, q - k]
    )
    assert "score s + relative[h, q - k]\n" in found.text
    seen = torch.rand(8) < 0.5
    assert "attend seen[q - k]\n" in imported_alike(lambda b, h, q, k: seen[q - k] & (q >= k)).text
    assert (
        "attend seen[if q - k < 0 then q - k + 8 else q - k]\n"
        in imported_alike(lambda b, h, q, k: seen[q - k] & (q >= k - 2)).text
    )


def test_a_tensor_that_is_also_read_detached_gets_the_gradients_of_the_other_alone() -> None:
    found = spec_of(score_mod=lambda s, b, h, q, k: s * slopes[h] + slopes.detach()[h])
    assert [t.requires_grad for t in found.inputs.values()] == [True, False]


def test_what_is_rounded_and_what_is_infinite_is_no_disagreement() -> None:
    small, bias = slopes.detach().bfloat16() * 0.7, torch.zeros(300, 300)
    bias[:, ::2] = NEVER
    spec_of(None, 1, 2, 300, 300, score_mod=lambda s, b, h, q, k: s + small[h] * (k - q))
    spec_of(None, 1, 2, 300, 300, score_mod=lambda s, b, h, q, k: s + bias[q, k])
