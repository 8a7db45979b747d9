"""What is two calls: Landmark attention, merged by log-sum-exp, and what is a sum of two, differential attention.

And StreamingLLM's cache, two calls that are the branches of a mixture. Each against its published definition, written
out in float64.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import attnspec
from tests.published.comparing import alike, random

N, HEADS, DIM = 60, 2, 8


def vectors() -> dict[str, Tensor]:
    return {name: random(1, HEADS, N, DIM, seed=seed, size=2.0) for seed, name in enumerate("qkv")}


@pytest.mark.slow
def test_landmark_attention() -> None:
    """Mohtashami and Jaggi, 2023, section 3.1: the last token of a section is the gate to it.

    Its weight, in the softmax of the own section and of earlier landmarks, is dealt out by a softmax of its section.
    """
    length, sections = 6, N // 6
    given = vectors()
    own = attnspec.compile(
        f"attention a {{ attend segment({length}) and k % {length} != {length - 1}  within causal }}"
    )
    each = attnspec.compile(f"attention a {{ attend k != {length - 1} }}")

    def mine() -> Tensor:
        q, k, v = given.values()
        keys, values = (t.unflatten(2, (sections, length)).movedim(2, 0).flatten(0, 1) for t in (k, v))
        inside = each(q.expand(sections, -1, -1, -1), keys, values)
        gates = q @ k[:, :, length - 1 :: length].mT / DIM**0.5
        earlier = torch.arange(sections) < (torch.arange(N) // length)[:, None]
        gates = gates.masked_fill(~earlier, -torch.inf).movedim(-1, 0)
        parts = [(inside[b : b + 1], gates[b]) for b in range(sections)]
        return attnspec.merge([own(q, k, v, return_lse=True), *parts])[0]

    def theirs() -> Tensor:
        q, k, v = (t.double() for t in given.values())
        scores, rows = q @ k.mT / DIM**0.5, []
        for i in range(N):
            here = i // length
            tokens = [j for j in range(here * length, i + 1) if j % length != length - 1]
            marks = [b * length + length - 1 for b in range(here)]
            first = scores[:, :, i, tokens + marks].softmax(-1)
            row = (first[..., None, : len(tokens)] @ v[:, :, tokens])[..., 0, :]
            for b in range(here):
                inner = range(b * length, b * length + length - 1)
                weights = scores[:, :, i, inner].softmax(-1) * first[..., len(tokens) + b, None]
                row = row + (weights[..., None, :] @ v[:, :, inner])[..., 0, :]
            rows.append(row)
        return torch.stack(rows, 2)

    alike(mine, theirs, given)


def test_positions_that_a_cache_renumbers() -> None:
    """StreamingLLM (Xiao et al., 2023, section 3.2): a key's position is its slot in a cache of sinks and the recent.

    Distances to recent keys are as they were; a query's distance to a sink stays that of a full cache.
    """
    start, recent = 4, 10
    given = vectors()
    attend = attnspec.compile("streaming_cache", start=start, recent=recent)

    def mine() -> Tensor:
        return attend(*given.values())

    def turned(x: Tensor, at: Tensor) -> Tensor:
        angles = at[:, None] * 10000.0 ** (-torch.arange(0, DIM, 2, dtype=torch.float64) / DIM)
        a, b = x.chunk(2, -1)  # Llama's layout
        return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)

    def theirs() -> Tensor:
        q, k, v = (t.double() for t in given.values())
        rows = []
        for i in range(N):
            cache = [j for j in range(i + 1) if j < start or i - j < recent]
            slots = torch.arange(len(cache), dtype=torch.float64)
            scores = turned(q[:, :, i : i + 1], slots[-1:]) @ turned(k[:, :, cache], slots).mT / DIM**0.5
            rows.append(scores.softmax(-1) @ v[:, :, cache])
        return torch.cat(rows, 2)

    alike(mine, theirs, given)


def test_differential_attention() -> None:
    """Ye et al., 2024, section 2.1: the difference of two softmaxes."""
    given = vectors() | {f"{name}2": random(1, HEADS, N, DIM, seed=7 + seed) for seed, name in enumerate("qk")}
    given["factor"] = torch.tensor(0.4, requires_grad=True)
    attend = attnspec.compile("causal")

    def mine() -> Tensor:
        q, k, v, q2, k2, factor = given.values()
        return attend(q, k, v) - factor * attend(q2, k2, v)

    def theirs() -> Tensor:
        q, k, v, q2, k2, factor = (t.double() for t in given.values())
        live = torch.ones(N, N, dtype=torch.bool).tril()
        one, two = ((a @ b.mT / DIM**0.5).masked_fill(~live, -torch.inf).softmax(-1) for a, b in ((q, k), (q2, k2)))
        return (one - factor * two) @ v

    alike(mine, theirs, given)
