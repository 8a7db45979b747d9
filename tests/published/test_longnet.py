"""LongNet against its definition, written out densely as the published code (torchscale) computes it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import attnspec
from tests.published.comparing import alike, random
from tests.support.marks import slow


def torchscale(
    q: Tensor, k: Tensor, v: Tensor, branches: list[list[int]], contiguous: bool, detached: bool = True
) -> Tensor:
    """For each branch: gather each head's positions of each segment, causal attention, scatter back; mix by weights.

    The weights are the softmax over the branches of their log-sum-exps, without a gradient, as published, or with.
    """
    batch, heads, n, dim = q.shape
    outs, totals = [], []
    for segment, rate in branches:
        out, total = torch.zeros_like(v), q.new_full((batch, heads, n), -math.inf)
        for h in range(heads):
            start = h // math.ceil(heads / rate) if contiguous else h % rate
            for begin in range(0, n, min(segment, n)):
                at = torch.arange(begin, min(begin + segment, n))[start::rate]
                scores = q[:, h, at] @ k[:, h, at].transpose(-1, -2) / math.sqrt(dim)
                scores = scores.masked_fill(at > at[:, None], -math.inf)
                out = out.index_put(
                    (torch.arange(batch)[:, None], torch.tensor(h), at), scores.softmax(-1) @ v[:, h, at]
                )
                total = total.index_put((torch.arange(batch)[:, None], torch.tensor(h), at), scores.logsumexp(-1))
        outs.append(out)
        totals.append(total)
    total = torch.stack(totals).detach() if detached else torch.stack(totals)
    weights = torch.exp(total - total.detach().amax(0).nan_to_num(neginf=0.0))
    weights = weights / weights.sum(0).clamp(min=1e-30)
    return (weights[..., None] * torch.stack(outs)).sum(0)


@pytest.mark.parametrize(
    ("branches", "heads", "contiguous"),
    [
        slow([[16, 1], [32, 2], [64, 4]], 4, False),
        ([[16, 1], [32, 2], [64, 4]], 4, True),
        ([[24, 2], [300, 3]], 5, True),  # heads that do not divide, a segment too long, rows that no branch covers
        slow([[24, 2], [300, 3]], 5, False),
    ],
)
def test_longnet(branches: list[list[int]], heads: int, contiguous: bool) -> None:
    attend = attnspec.compile("longnet", branches=branches, **({"contiguous": True} if contiguous else {}))
    q, k, v = (random(2, heads, 130, 16, seed=i) for i in range(3))
    sources = {"q": q, "k": k, "v": v}
    exact = (x.double() for x in (q, k, v))
    alike(lambda: attend(q, k, v), lambda: torchscale(*exact, branches, contiguous), sources)


@pytest.mark.slow
def test_the_formula_of_the_paper_has_a_gradient_through_the_weights() -> None:
    """Without `weights detached` a mixture is one softmax over the keys of all branches, with multiplicity."""
    branches = [[16, 1], [32, 2], [64, 4]]
    text = attnspec.compile("longnet").program.text.replace(" weights detached", "")
    attend = attnspec.compile(text, branches=branches)
    q, k, v = (random(2, 4, 130, 16, seed=i) for i in range(3))
    sources = {"q": q, "k": k, "v": v}
    alike(
        lambda: attend(q, k, v), lambda: torchscale(*(x.double() for x in (q, k, v)), branches, False, False), sources
    )
