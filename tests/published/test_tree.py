"""A tree of drafted tokens, verified at once, is each of its branches decoded by itself."""

from __future__ import annotations

import torch

import attnspec
from tests.published.comparing import random

PARENTS = [-1, 0, 0, 1, -1, 4, 3, 2]
"""Of each drafted token; those of -1 follow the cached text."""
CACHED, DIM = 21, 16


def path(token: int) -> list[int]:
    """A drafted token with its ancestors, in the order of the text."""
    return [*(path(PARENTS[token]) if PARENTS[token] >= 0 else []), token]


def test_each_token_sees_the_text_that_it_would_end() -> None:
    drafted, n = len(PARENTS), CACHED + len(PARENTS)
    q = random(2, 4, drafted, DIM, seed=1)
    k, v = (random(2, 2, n, DIM, seed=seed) for seed in (2, 3))
    tree = torch.zeros(2, drafted, drafted, dtype=torch.bool)
    for token in range(drafted):
        tree[:, token, path(token)] = True
    place = torch.tensor([CACHED + len(path(token)) - 1 for token in range(drafted)]).expand(2, -1)
    out = attnspec.compile("tree", theta=500)(q, k, v, tree=tree, place=place)
    alone = attnspec.compile("rope", theta=500, target="dense")
    for token in range(drafted):
        text = [*range(CACHED), *(CACHED + other for other in path(token))]
        want = alone(q[:, :, [token]].double(), k[:, :, text].double(), v[:, :, text].double())
        torch.testing.assert_close(out[:, :, [token]].double(), want, atol=1e-5, rtol=1e-4)
