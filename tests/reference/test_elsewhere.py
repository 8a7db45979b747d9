"""Masks of other libraries beside ours: each is evaluated over all pairs, as its library would, and is ours."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import attnspec
from attnspec.reference.elsewhere import MASKS, SCORES, Elsewhere
from tests.support.examples import text_of

BATCH, HEADS, N, N_Q = 2, 3, 16, 16
FEW = 5
"""Query rows, for those that have fewer than keys."""
generator = torch.Generator().manual_seed(0)

DOCUMENTS = torch.tensor([0] * 3 + [1] * 7 + [2] * 6)
NAMES: dict[str, Any] = {
    "prefix_length": torch.tensor([4, 9]),
    "document_id": DOCUMENTS,
    "cu_seqlens": torch.tensor([0, 3, 10, 16]),
    "live": torch.rand(BATCH, N, generator=generator) < 0.6,
    "allowed": torch.rand(BATCH, HEADS, N_Q, N, generator=generator) < 0.5,
    "slopes": torch.tensor([0.5, 0.25, 0.125]),
}
Index = Tensor


def sliding_window(q: Index, k: Index) -> Tensor:
    """flash-attn: from window_size[0] keys before the query to window_size[1] after it."""
    return (k >= q - 4) & (k <= q + 2)


def varlen(q: Index, k: Index) -> Tensor:
    """flash-attn: each sequence lies between two of cu_seqlens, and is causal by itself."""
    seen = torch.zeros(N, N, dtype=torch.bool)
    starts = NAMES["cu_seqlens"].tolist()
    for start, end in pairwise(starts):
        seen[start:end, start:end] = torch.ones(end - start, end - start, dtype=torch.bool).tril()
    return seen


def start_of(i: Tensor, length: Tensor | int, size: int) -> Tensor:
    """NATTEN: where the window of a query begins, moved inwards at the edges."""
    return torch.minimum((i - size // 2).clamp(min=0), torch.as_tensor(length - size))


def na2d(q: Index, k: Index) -> Tensor:
    rows, columns = (start_of(i, 4, 3) for i in (q // 4, q % 4))
    return (k // 4 >= rows) & (k // 4 < rows + 3) & (k % 4 >= columns) & (k % 4 < columns + 3)


def na1d(q: Index, k: Index) -> Tensor:
    """With a dilation of 2 the even and the odd positions are sequences of their own."""
    start = start_of(q // 2, (N - q % 2 + 1) // 2, 3)
    return (q % 2 == k % 2) & (k // 2 >= start) & (k // 2 < start + 3)


WRITTEN: dict[str, Callable[[Index, Index], Tensor]] = {
    "flash_attn_func": sliding_window,
    "flash_attn_varlen_func": varlen,
    "na2d": na2d,
    "na1d": na1d,
}


def theirs(text: str, n_q: int) -> Tensor:
    """The mask of their code, (batch, heads, n_q, N)."""
    if text.startswith("lambda"):
        shape = (BATCH, HEADS, n_q, N)
        places = [torch.arange(size).reshape([-1 if i == j else 1 for j in range(4)]) for i, size in enumerate(shape)]
        return eval(text, dict(NAMES))(*places).expand(shape)  # type: ignore[no-any-return]
    if text.startswith("scaled"):  # of equal scores, over values that say which key each is
        tensors = {"q": torch.zeros(BATCH, HEADS, n_q, N), "k": torch.zeros(BATCH, HEADS, N, N)}
        tensors["v"] = torch.eye(N).expand(BATCH, HEADS, N, N)
        scope = {**NAMES, **tensors, "scaled_dot_product_attention": scaled_dot_product_attention}
        return eval(text, scope) > 0  # type: ignore[no-any-return]
    return WRITTEN[text.partition("(")[0]](torch.arange(n_q)[:, None], torch.arange(N)).expand(BATCH, HEADS, n_q, N)


@pytest.mark.parametrize("item", MASKS, ids=lambda item: item.title)
def test_masks_are_equal(item: Elsewhere) -> None:
    spec = attnspec.read(text_of(item.ours))
    inputs = {i.name: NAMES[i.name].numpy() for i in spec.inputs}
    for n_q in (N_Q, FEW) if spec.align == "start" else (N_Q,):
        mask = torch.from_numpy(spec.mask(N, n_q, HEADS, BATCH, inputs=inputs))
        wanted = theirs(item.theirs, n_q)
        assert wanted.any()
        assert not wanted.all()
        assert torch.equal(mask, wanted)


@pytest.mark.slow  # what it imports takes long
@pytest.mark.parametrize("item", [m for m in MASKS if m.theirs.startswith("lambda")], ids=lambda item: item.title)
def test_flex_attention_takes_theirs_and_means_the_same(item: Elsewhere) -> None:
    from torch.nn.attention.flex_attention import create_mask

    mask = create_mask(eval(item.theirs, dict(NAMES)), BATCH, HEADS, N, N, device="cpu")
    assert torch.equal(mask, theirs(item.theirs, N))


def test_there_are_twelve() -> None:
    assert len(MASKS) == 12
    assert {"FlexAttention", "SDPA", "flash-attn", "NATTEN"} <= {m.title.rpartition("(")[2][:-1] for m in MASKS}


@pytest.mark.parametrize("item", SCORES, ids=lambda item: item.title)
def test_scores_are_equal(item: Elsewhere) -> None:
    attend = attnspec.compile(text_of(item.ours), target="dense")
    q, k, v = torch.randn(3, BATCH, HEADS, N, 8, generator=generator, dtype=torch.float64).unbind(0)
    inputs = {i.name: NAMES[i.name] for i in attend.spec.inputs}
    b, h, i, j = (torch.arange(s).reshape([-1 if a == c else 1 for c in range(4)]) for a, s in enumerate((2, 3, N, N)))
    score = q @ k.mT / 8**0.5
    score = eval(item.theirs, {**NAMES, "torch": torch})(score, b, h, i, j)
    score = score.masked_fill(~attend.mask(N, heads=HEADS, batch=BATCH, inputs=inputs), -torch.inf)
    torch.testing.assert_close(attend(q, k, v, inputs=inputs), score.softmax(-1) @ v)


@pytest.mark.parametrize(
    ("clauses", "wanted"),
    [
        ("attend window(5)", lambda q, k: (k >= q - 4) & (k <= q)),  # flash-attn: window_size=(4, 2), causal=True
        ("attend dilated(3, 2)", lambda q, k: ((q - k) % 2 == 0) & (k <= q) & (q - k <= 4)),  # na1d, is_causal=True
    ],
)
def test_what_the_notes_say_is_so(clauses: str, wanted: Callable[[Index, Index], Tensor]) -> None:
    assert any(f"`{clauses}`" in item.note for item in MASKS)
    i = torch.arange(N)
    assert torch.equal(torch.from_numpy(attnspec.read(text_of(clauses)).mask(N))[0, 0], wanted(i[:, None], i))
