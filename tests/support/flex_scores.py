"""Score functions in the form that FlexAttention takes, from their definitions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.support.flex_tables import made

ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
N, HEADS, BATCH = 90, 4, 2


@dataclass(frozen=True)
class Score:
    """What makes a score function of the tables that it learns from, and their shapes."""

    make: Callable[..., ScoreMod]
    learned: tuple[tuple[int, ...], ...] = ()

    def tables(self) -> list[Tensor]:
        """Tables to learn from."""
        return [
            made(at, lambda g, shape=shape: torch.randn(shape, generator=g)) for at, shape in enumerate(self.learned)
        ]


def alibi(heads: int) -> ScoreMod:
    """A penalty for distance, of slopes 2^(-8 (h + 1) / heads) (Press et al.)."""
    return lambda s, b, h, i, j: s - torch.exp2(-8.0 * (h + 1) / heads) * (i - j)


def alibi_slopes(slopes: Tensor) -> ScoreMod:
    return lambda s, b, h, i, j: s + slopes[h] * (j - i)


def soft_cap(cap: float) -> ScoreMod:
    """Gemma 2."""
    return lambda s, b, h, i, j: cap * torch.tanh(s / cap)


def relative(bias: Tensor) -> ScoreMod:
    """A bias for each head and distance, of which far ones share the last (Shaw et al., T5 without logarithms)."""
    reach = bias.shape[1] // 2
    return lambda s, b, h, i, j: s + bias[h, torch.clamp(j - i, -reach, reach) + reach]


def graph_distances(bias: Tensor) -> ScoreMod:
    """Graphormer's spatial encoding: a bias for each head and length of the shortest path between two nodes."""
    apart = made(8, lambda g: torch.randint(0, 7, (BATCH, N, N), generator=g, dtype=torch.int32))
    return lambda s, b, h, i, j: s + bias[h, apart[b, i, j]]


def graph_edges(weight: Tensor) -> ScoreMod:
    """Graphormer's edge encoding: the mean along a path of weights by head, place in the path and kind of edge."""
    kinds = made(9, lambda g: torch.randint(0, 5, (BATCH, N, N, 3), generator=g, dtype=torch.int32))
    length = made(10, lambda g: torch.randint(0, 4, (BATCH, N, N), generator=g, dtype=torch.int32))

    def score(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        steps = length[b, i, j]
        for place in range(3):
            bias = weight[h, place, kinds[b, i, j, place]] / steps.clamp(min=1)
            s = s + torch.where(place < steps, bias, 0.0)
        return s

    return score


def sandwich(heads: int) -> ScoreMod:
    """The sum of cosines of a distance that sinusoidal positions have in common (Chi et al.), a share for each head."""
    apart = torch.arange(-N, N + 1)[:, None] / 10000.0 ** (torch.arange(16) / 16)
    bias, share = torch.cos(apart).sum(1), heads / (8.0 * torch.arange(1, heads + 1))
    return lambda s, b, h, i, j: s + bias[i - j + N] * share[h]


def activated() -> ScoreMod:
    """Weights that are 1 + relu(s) in place of exp(s)."""
    return lambda s, b, h, i, j: torch.log(torch.relu(s) + 1.0)


def sigmoid() -> ScoreMod:
    """Weights that are sigmoids."""
    return lambda s, b, h, i, j: torch.log(torch.sigmoid(s))


def hides() -> ScoreMod:
    """A mask as scores of minus infinity."""
    return lambda s, b, h, i, j: torch.where(j <= i, s, -float("inf"))


def by_query(bias: Tensor, gate: Tensor) -> ScoreMod:
    """Tables by position, one of each batch entry."""
    return lambda s, b, h, i, j: s * gate[b, h] + bias[b, i] - bias[b, j]


SCORES = {
    "alibi": Score(lambda: alibi(HEADS)),
    "alibi, learned": Score(alibi_slopes, ((HEADS,),)),
    "soft cap": Score(lambda: soft_cap(20.0)),
    "relative": Score(relative, ((HEADS, 15),)),
    "graph distances": Score(graph_distances, ((HEADS, 7),)),
    "graph edges": Score(graph_edges, ((HEADS, 3, 5),)),
    "sandwich": Score(lambda: sandwich(HEADS)),
    "activated": Score(activated),
    "sigmoid": Score(sigmoid),
    "hides": Score(hides),
    "by query": Score(by_query, ((BATCH, N), (BATCH, HEADS))),
}
