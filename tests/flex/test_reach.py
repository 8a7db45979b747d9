"""Indices that reach outside a tensor: PyTorch fails there, the language reads nothing, so none may be seen."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from attnspec import CallError
from attnspec.flex import flex_attention, spec_of

N = 12
DOC = torch.arange(N) // 4
BIAS, FLAGS, OF_DOC = torch.rand(5), torch.rand(5) > 0.5, torch.rand(3)
SHIFTED = DOC - 3
GRID = torch.rand(N, 5)
LONGER = torch.cat([DOC, torch.full((4,), 99)])
STARTS = torch.arange(0, N, 4)
PAGES = torch.arange(N) // 2 * torch.tensor([1, -9]).repeat(N // 2)
ON = torch.tensor(True)


def near(b, h, q, k):
    return (q >= k) & (q - k < 5)


INSIDE = {  # mask, score
    "where the mask sees": (near, lambda s, b, h, q, k: s + BIAS[(q - k).abs()]),
    "from the end": (near, lambda s, b, h, q, k: s + BIAS[k - q]),
    "clamped": (None, lambda s, b, h, q, k: s + BIAS[(q - k).abs().clamp(max=4)]),
    "clamped by hand": (None, lambda s, b, h, q, k: s + BIAS[torch.where(q - k > 2, 2, torch.where(q < k, 0, q - k))]),
    "clamped distances of what is read": (None, lambda s, b, h, q, k: s + BIAS[(DOC[q] - DOC[k]).clamp(-2, 2) + 2]),
    "of what is read": (None, lambda s, b, h, q, k: s + OF_DOC[DOC[q]] * OF_DOC[SHIFTED[k]]),
    "products": (None, lambda s, b, h, q, k: s + BIAS[DOC[q] * DOC[k]]),
    "a list": (None, lambda s, b, h, q, k: s + torch.tensor([0.5, 1.0, 2.0])[DOC[k]]),
    "known where it is read": (None, lambda s, b, h, q, k: s + BIAS[torch.where((DOC[q] < 1) | (k > 4), 0, 4 - k)]),
    "asked before": (None, lambda s, b, h, q, k: s + GRID[torch.where(PAGES[q] >= 0, PAGES[q], 0), 0]),
    "of what is read of a longer one": (None, lambda s, b, h, q, k: s + OF_DOC[LONGER[q]]),
    "of starts of documents": (lambda b, h, q, k: DOC[STARTS[DOC[q]]] == DOC[k], None),
    "once around": (None, lambda s, b, h, q, k: s + OF_DOC[(DOC[q] + 5) % 5 % 4]),
    "one of two": (None, lambda s, b, h, q, k: s * torch.stack([q, k, q + k])[h]),
    "a part of a row": (None, lambda s, b, h, q, k: s + GRID[q][1:4][DOC[k]]),
    "places between numbers": (None, lambda s, b, h, q, k: s + BIAS[torch.searchsorted(STARTS, q, right=True)]),
    "embedded": (near, lambda s, b, h, q, k: s + torch.nn.functional.embedding(q - k, GRID)[0]),
    "one flag": (lambda b, h, q, k: (q >= k) | ON, None),
    "flags that are seen": (lambda b, h, q, k: near(b, h, q, k) & FLAGS[q - k], None),
    "flags that are asked": (lambda b, h, q, k: (q - k > 4) | (k > q) | FLAGS[(q - k)], None),
}
OUTSIDE = {
    "distances": (None, lambda s, b, h, q, k: s + BIAS[(q - k).abs()], r"`\|q - k\|`, which reaches 11"),
    "above": (lambda b, h, q, k: q - k < 5, lambda s, b, h, q, k: s + BIAS[(q - k).abs()], "which reaches 11"),
    "by one": (lambda b, h, q, k: (q >= k) & (q - k < 6), lambda s, b, h, q, k: s + BIAS[q - k], "`q - k`, which"),
    "flags": (lambda b, h, q, k: FLAGS[(q - k).abs()], None, "`FLAGS` has 5 entries"),
    "too far from the end": (near, lambda s, b, h, q, k: s + BIAS[k - q - 2], "`BIAS` has 5"),
    "turned by hand": (
        lambda b, h, q, k: (q - k).abs() < 3,
        lambda s, b, h, q, k: s + BIAS[torch.where(q < k, q - k + 10, q - k)],
        "`BIAS` has 5",
    ),
    "one of three": (None, lambda s, b, h, q, k: s * torch.stack([q, k, q + k])[DOC[k] + 1], "computed` has 3"),
    "one of one": (lambda b, h, q, k: torch.tensor([3])[k] >= q, None, "`what is computed` has 1 entries"),
    "after a part of a row": (None, lambda s, b, h, q, k: s + GRID[q][1:3][DOC[k]], "`what is computed` has 2"),
    "embedded, below 0": (None, lambda s, b, h, q, k: s + torch.nn.functional.embedding(q - k, GRID)[0], "`GRID` has"),
    "asked of something else": (None, lambda s, b, h, q, k: s + BIAS[torch.where(DOC[q] > 0, 0, PAGES[k])], "`BIAS`"),
    "read": (None, lambda s, b, h, q, k: s + OF_DOC[DOC[q] + 1], r"`DOC\[q\] \+ 1`, which has others as its tensors"),
    "read, below": (None, lambda s, b, h, q, k: s + OF_DOC[SHIFTED[k] - 1], "has others as its tensors are"),
    "a list": (lambda b, h, q, k: torch.tensor([0, 1])[DOC[q]] == 0, None, "`a tensor` has 2 entries"),
    "one by one": (lambda b, h, q, k: (FLAGS[q + torch.arange(2)] & (k > 2)).any(), None, "`FLAGS` has 5 entries"),
}


@pytest.mark.parametrize(("mask", "score"), INSIDE.values(), ids=INSIDE.keys())
def test_what_is_inside_for_all_pairs_that_are_seen(mask, score) -> None:
    spec_of(mask, 1, 1, N, N, score_mod=score)


@pytest.mark.parametrize(("mask", "score", "message"), OUTSIDE.values(), ids=OUTSIDE.keys())
def test_what_is_not_is_refused(mask, score, message: str) -> None:
    with pytest.raises(CallError, match=message) as caught:
        spec_of(mask, 1, 1, N, N, score_mod=score)
    assert str(caught.value).startswith(f"{__file__}:")


def test_tensors_are_looked_at_in_each_call() -> None:
    """A function that was traced around tensors that fit is refused around others."""

    def biased(doc):
        return lambda s, b, h, q, k: s + OF_DOC[doc[q]]

    qkv = torch.randn(3, 1, 1, N, 8)
    flex_attention(*qkv, biased(DOC))
    flex_attention(*qkv, biased(DOC.flip(0)))
    with pytest.raises(CallError, match=r"`OF_DOC` has 3 entries .* `doc\[q\]`, which has others"):
        flex_attention(*qkv, biased(DOC + 1))


@pytest.mark.slow  # (TorchDynamo loads for seconds)
def test_in_graphs_it_is_asserted_when_they_run() -> None:
    def biased(doc):
        return lambda s, b, h, q, k: s + OF_DOC[doc[q] - 1]

    torch._dynamo.reset()
    compiled = torch.compile(flex_attention, backend="eager", fullgraph=True)
    qkv = torch.randn(3, 1, 1, N, 8)
    for doc in (DOC, DOC + 1):
        score = biased(doc)
        torch.testing.assert_close(compiled(*qkv, score), flex_attention(*qkv, score), atol=1e-5, rtol=1e-5)
    with pytest.raises(RuntimeError, match="`doc` holds numbers that `OF_DOC` has no entry for"):
        compiled(*qkv, biased(DOC + 2))
    for score in (
        lambda s, b, h, q, k: s + BIAS[PAGES[q].clamp(0, 4)],
        lambda s, b, h, q, k: s + BIAS[torch.where((PAGES[q] > 0) & (PAGES[q] < 5), PAGES[q], 0)],
    ):  # which lie inside, whatever there is
        torch.testing.assert_close(compiled(*qkv, score), flex_attention(*qkv, score), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_pairs_that_are_not_seen_do_not_count() -> None:
    qkv = torch.randn(3, 1, 2, N, 8)
    longer = torch.cat([BIAS, torch.rand(N)])
    block_mask = create_block_mask(near, None, None, N, N, device="cpu")
    found, wanted = (
        flex_attention(*qkv, lambda s, b, h, q, k, t=t: s + t[(q - k).abs()], block_mask) for t in (BIAS, longer)
    )
    torch.testing.assert_close(found, wanted)
