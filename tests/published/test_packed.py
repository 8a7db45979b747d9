"""Documents and padding against each document by itself, without the others: torch's own attention."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import attnspec
from tests.published.comparing import alike, random
from tests.support.marks import slow

OFFSETS = [0, 40, 41, 41, 131, 150]
N = OFFSETS[-1]
DOC = torch.tensor([[x for x, end in enumerate(OFFSETS[1:]) for _ in range(OFFSETS[x], end)]]).expand(2, N)
PIECES = [slice(a, b) for a, b in pairwise(OFFSETS) if b > a]
LENGTHS = torch.tensor([N, 77])


def documents(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    each = ([x[:, :, at] for x in (q, k, v)] for at in PIECES)
    return torch.cat([scaled_dot_product_attention(*own, is_causal=True) for own in each], 2)


def windows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """StreamingLLM in each document: 2 sinks and the last 20 keys."""

    def one(at: slice) -> Tensor:
        i = torch.arange(at.stop - at.start)
        mask = (i <= i[:, None]) & ((i < 2) | (i[:, None] - i < 20))
        return scaled_dot_product_attention(*(x[:, :, at] for x in (q, k, v)), attn_mask=mask)

    return torch.cat([one(at) for at in PIECES], 2)


def right(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The rows of padding see the same keys as all others."""
    parts = [(q[b : b + 1], k[b : b + 1, :, :end], v[b : b + 1, :, :end]) for b, end in enumerate(LENGTHS)]
    return torch.cat([scaled_dot_product_attention(*part) for part in parts])


def left(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The rows of padding give zeros."""

    def one(b: int, start: int) -> Tensor:
        own = scaled_dot_product_attention(*(x[b : b + 1, :, start:] for x in (q, k, v)), is_causal=True)
        return torch.cat([own.new_zeros((1, own.shape[1], start, own.shape[3])), own], dim=2)

    return torch.cat([one(b, N - int(length)) for b, length in enumerate(LENGTHS)])


def prefixes(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    i = torch.arange(N)
    mask = (i <= i[:, None]) | (i < torch.tensor([0, 70])[:, None, None, None])
    return scaled_dot_product_attention(q, k, v, attn_mask=mask)


CASES = {
    "packed": ({}, {"doc": DOC}, documents),
    "packed_offsets": ({}, {"cu_seqlens": torch.tensor(OFFSETS)}, documents),
    "packed_window": ({"start": 2, "recent": 20}, {"doc": DOC}, windows),
    "padded": ({}, {"length": LENGTHS}, right),
    "left_padded": ({}, {"start": N - LENGTHS}, left),
    "prefix_lm_lengths": ({}, {"length": torch.tensor([0, 70])}, prefixes),
}


@pytest.mark.parametrize("name", [slow(name) if name in ("padded", "packed_offsets") else name for name in CASES])
def test_each_document_is_what_it_would_be_alone(name: str) -> None:
    params, inputs, alone = CASES[name]
    attend = attnspec.compile(name, params=params)
    q, k, v = (random(2, 2, N, 16, seed=i) for i in range(3))
    exact = [x.double() for x in (q, k, v)]
    alike(lambda: attend(q, k, v, **inputs), lambda: alone(*exact), {"q": q, "k": k, "v": v})
