"""What people write with tables in the words of the language, if that is what the tables hold: so tiles are bounded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.flex import flex_attention, spec_of
from attnspec.runtime.flex.known import CallSizes, pattern
from tests.support.flex_dense import dense, mask_of
from tests.support.flex_masks import MaskMod, causal, lookback
from tests.support.flex_tables import DOC, STARTS, document_interval, documents_inside, flagged

N = 100


@pytest.mark.parametrize(
    ("around", "wanted"),
    [
        (lambda doc, starts: documents_inside(doc, starts, causal()), ["attend k <= q", "within doc[q] == doc[k]"]),
        (
            lambda doc, starts: documents_inside(doc, starts, lookback(4)),
            ["attend q - k >= 0", "within q - k <= 4", "within doc[q] == doc[k]"],
        ),
        (document_interval, ["attend k <= q", "within first(doc, q) <= k"]),
        (
            lambda doc, starts: lambda b, h, i, j: (j < starts[doc[i] + 1]) & (i - starts[doc[i]] < 9),
            ["attend k < last(doc, q) + 1", "within q - first(doc, q) < 9"],
        ),
        (lambda doc, starts: lambda b, h, i, j: (j - starts[doc[j]]) % 4 == 0, ["attend (k - first(doc, k)) % 4 == 0"]),
    ],
)
def test_offsets_of_documents_are_their_runs(around: Callable[[Tensor, Tensor], MaskMod], wanted: list[str]) -> None:
    text = spec_of(around(DOC, STARTS), Q_LEN=N, KV_LEN=N).text
    assert [line.strip() for line in text.splitlines()[1:-1]] == ["input doc: int[n] sorted", "align start", *wanted]


@pytest.mark.parametrize(
    "change",
    [lambda doc, starts: starts.add_(1), lambda doc, starts: doc.copy_(doc.flip(0)), lambda doc, starts: doc.sub_(1)],
)
def test_offsets_of_something_else_stay_tables(change: Callable[[Tensor, Tensor], Tensor]) -> None:
    doc, starts = DOC.clone(), STARTS.clone()
    change(doc, starts)
    found = spec_of(document_interval(doc, starts), Q_LEN=N, KV_LEN=N)
    assert "starts[" in found.text
    mask = attnspec.read(found.text).mask(N, inputs={name: t.numpy() for name, t in found.inputs.items()})
    assert torch.equal(torch.from_numpy(mask), mask_of(document_interval(doc, starts), 1, 1, N, N))


def test_tiles_are_bounded_by_runs() -> None:
    n = 8192
    doc, starts = torch.arange(n) // 512, torch.arange(0, n + 1, 512)
    plan = str(attnspec.compile(spec_of(document_interval(doc, starts), Q_LEN=n, KV_LEN=n).text).plan)
    assert "first(doc, q) <= k is looked at in the corners of tiles; those that it leaves empty are skipped" in plan
    assert "not decided" not in plan


def test_a_few_marked_positions_are_looked_at_one_by_one() -> None:
    n, sizes = 4096, CallSizes(1, 1, 4096, 4096)
    flags = torch.zeros(n, dtype=torch.bool)
    flags[torch.tensor([0, 1000, 4095])] = True
    found = pattern(flagged(9, flags), None, sizes)
    assert {name: t.tolist() for name, t in found.inputs.items()} == {"flags_at": [4095, 1000, 0, -1]}
    assert "flags_at[3] is looked at in the corners of tiles" in str(found.attention.plan)
    flags[7] = True
    flags[0] = False
    again = pattern(flagged(9, flags), None, sizes)
    assert again.attention is found.attention
    assert again.inputs["flags_at"].tolist() == [4095, 1000, 7, -1]
    flags[:40] = True
    many = pattern(flagged(9, flags), None, sizes)
    assert list(many.inputs) == ["flags"]
    assert many.inputs["flags"] is flags
    assert list(spec_of(flagged(9, flags), Q_LEN=n, KV_LEN=n).inputs) == ["flags"]  # read when it is called


@pytest.mark.slow
def test_they_are_asked_again_of_other_data() -> None:
    n = 512
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 1, n, 16)
    doc, starts = torch.arange(n) // 100, torch.tensor([0, 100, 200, 300, 400, 500, 512])
    flags = torch.zeros(n, dtype=torch.bool)

    def mask(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return document_interval(doc, starts)(b, h, i, j) | flagged(3, flags)(b, h, i, j)

    def changes() -> list[Callable[[], object]]:
        return [
            lambda: None,
            lambda: flags.index_fill_(0, torch.tensor([5, 300]), True),
            lambda: (doc.copy_(torch.arange(n) // 128), starts.copy_(torch.tensor([0, 128, 256, 384, 512, 512, 512]))),
            lambda: starts[1].fill_(100),
            lambda: flags.fill_(True)[3:].fill_(False),
            lambda: flags.logical_not_(),
        ]

    from torch.nn.attention.flex_attention import create_block_mask

    for change in changes():
        change()
        block_mask = create_block_mask(mask, None, None, n, n, device="cpu")
        wanted, _ = dense(q, k, v, mask_of(mask, 1, 1, n, n), None)
        torch.testing.assert_close(
            flex_attention(q, k, v, block_mask=block_mask).double(), wanted, atol=1e-5, rtol=1e-5
        )


@pytest.mark.slow
def test_fewer_tiles_are_visited() -> None:
    n = 8192
    doc, starts = torch.arange(n) // 512, torch.arange(0, n + 1, 512)
    flags = torch.zeros(n, dtype=torch.bool)
    flags[torch.tensor([0, 1000, 4095])] = True
    for function, most in ((document_interval(doc, starts), 400), (flagged(9, flags), 1500)):
        found = pattern(function, None, CallSizes(1, 1, n, n))
        cost = found.attention.cost(n=n, inputs={name: t.numpy() for name, t in found.inputs.items()})
        assert cost.full + cost.partial < most < cost.tiles
