"""Scores of any size, and numbers that are none where nobody looks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.support.oracle import tensors
from tests.support.targets import TARGETS, compiled, slow, threads

BIASED = "attention a { input bias: float[batch, heads, n_q, n]  %s  score s + bias[b, h, q, k] }"
UNION = "attend window(20)  attend (q - k) % 8 == 0 and k <= q"  # two passes
OFFSETS = (-1e9, torch.finfo(torch.float32).min, -1e5, 3e5)


def gradients(out: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad((out * out.cos()).sum(), of)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("offset", [OFFSETS[0], *map(slow, OFFSETS[1:])])
@pytest.mark.parametrize("clauses", ["", slow(UNION)])
def test_weights_sum_to_one_whatever_the_offset(clauses: str, offset: float, target: str) -> None:
    """Rows whose scores are all hugely negative, as people's masks have them: what softmax in float32 gives."""
    q, k, v = tensors(45, heads=2)
    attend = compiled(BIASED % clauses, target)
    bias = torch.zeros(1, 2, 45, 45)
    bias[:, :, 5:8] = offset
    bias[:, :, 30, :20] = offset
    hidden = ~attend.mask(45, heads=2, inputs={"bias": bias})
    exact = torch.softmax((q @ k.mT / 4 + bias).masked_fill(hidden, float("-inf")), -1) @ v
    wanted = gradients(exact, q, k, v)
    for number in (1, 2):
        with threads(number):
            out = attend(q, k, v, bias=bias)
            torch.testing.assert_close(out, exact, atol=2e-6, rtol=0)
            for got, one in zip(gradients(out, q, k, v), wanted, strict=True):
                torch.testing.assert_close(got, one, atol=1e-5, rtol=1e-5)


# One weight, as Reformer's logit of a position for itself has it; two softmaxes that each see what the other does.
CONSTANT = {
    "self": "attention a { attend q == k  score -100000.0 + 0 * s }",
    "mixture": """attention a {
        score 0 * s - 1000000000.0
        mix { branch { attend causal } branch times 3 { attend causal } }
    }""",
    "detached": """attention a {
        score 0 * s - 1000000000.0
        mix weights detached { branch { attend causal } branch times 3 { attend causal } }
    }""",
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["self", slow("mixture"), slow("detached")])
def test_equal_scores_have_equal_weights(name: str, target: str) -> None:
    q, k, v = tensors(45)
    out = compiled(CONSTANT[name], target)(q, k, v)
    seen = torch.ones(45, 45).tril() if name != "self" else torch.eye(45)
    weights = (seen / seen.sum(-1, keepdim=True)).expand(1, 2, 45, 45)
    torch.testing.assert_close(out, weights @ v, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), v)[0], weights.mT @ torch.ones_like(v), atol=1e-5, rtol=0)


@pytest.mark.parametrize("target", TARGETS)
def test_large_products(target: str) -> None:
    """Keys that are all the same have the same weight, whatever their products with queries are."""
    q, _, v = tensors(45)
    q, k = (q.detach() * 1e4).requires_grad_(), torch.full((1, 2, 45, 16), 30.0, requires_grad=True)
    out = compiled("attention a { }", target)(q, k, v)
    torch.testing.assert_close(out, v.mean(2, keepdim=True).expand_as(out), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), v)[0], torch.ones_like(v), atol=1e-5, rtol=0)


HIDDEN = {
    "padded": ("attention a { input length: int[batch]  attend k < length }", {"length": 33}, "kv", slice(33, 45)),
    "left padded": (
        "attention a { input start: int[batch]  within causal and k >= start }",
        {"start": 13},
        "qkv",
        slice(13),
    ),
    "scattered": ("attention a { attend k % 3 != 1 and k <= q  score softcap(s, 5.0) }", {}, "kv", slice(1, 45, 3)),
    "sink": ("attention a { attend k >= 13 and q >= 13  sink 0.5 }", {}, "qkv", slice(13)),
    "normalized": ("attention a { attend k >= 13 and q >= 13  normalize q  normalize k }", {}, "qkv", slice(13)),
    "turned": (
        "attention a { input f: float[8]  attend k >= 13 and q >= 13  rotate rope(frequencies = f) }",
        {"f": [1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.0]},
        "qkv",
        slice(13),
    ),
}


@pytest.mark.parametrize("target", [*TARGETS, "dense"])
@pytest.mark.parametrize("name", ["normalized", *map(slow, ("padded", "left padded", "turned", "scattered", "sink"))])
@pytest.mark.parametrize("dtype", [torch.float32, slow(torch.float16), slow(torch.bfloat16)])
def test_what_nobody_sees_has_no_effect(name: str, dtype: torch.dtype, target: str) -> None:
    """Not a number where the mask hides it (static caches hold garbage): the same bits as with numbers there."""
    if target == "triton" and dtype == torch.bfloat16:
        pytest.skip("the interpreter multiplies bfloat16 wrongly")
    text, inputs, where, hidden = HIDDEN[name]
    given = {key: torch.tensor(value if isinstance(value, list) else [value]) for key, value in inputs.items()}
    learned = [t.requires_grad_() for t in given.values() if t.is_floating_point()]
    attend = compiled(text, target)
    for number in (1, 2):
        results = []
        for garbage in (None, float("nan"), float("inf")):
            clean = tensors(45, heads=2, kv_heads=1, dtype=dtype)
            dirty = [t.detach().clone() for t in clean]
            for t in (t for t, letter in zip(dirty, "qkv", strict=True) if letter in where and garbage is not None):
                t[:, :, hidden] = garbage
            q, k, v = (t.requires_grad_() for t in dirty)
            with threads(number):
                out, lse = attend(q, k, v, **given, return_lse=True)
                kept = torch.ones(45, dtype=torch.bool)
                kept[hidden] = "q" not in where
                results.append(
                    [out[:, :, kept], lse[:, :, kept], *gradients(out[:, :, kept].float(), q, k, v, *learned)]
                )
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("target", TARGETS)
def test_a_value_that_is_no_number_reaches_the_rows_that_see_it(target: str) -> None:
    q, k, v = tensors(45)
    v = v.detach().clone()
    v[0, 0, 20, 3] = float("inf")
    out = compiled("attention a { attend causal }", target, tile=(32, 32))(q, k, v.requires_grad_())
    assert torch.isinf(out[0, 0, 20:, 3]).all()
    assert torch.isfinite(out[0, 1]).all()
    if target == "cpp":  # Triton's tiles: as in torch, zero times infinity is no number
        assert torch.isfinite(out[0, 0, :20]).all()
        assert torch.isfinite(out[0, 0, :, :3]).all()
