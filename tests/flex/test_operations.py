"""Each operation of PyTorch's that masks are written with means what it means there."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import pytest
import torch

from tests.support.flex_point import imported_alike

ROWS = torch.tensor([[[0, 2], [3, 1]], [[-1, -1], [2, 2]]])
DOC = torch.tensor([0, 0, 1, 1, 1, 2, 2, 3])


def in_place(b, h, q, k):
    seen = q >= k
    seen &= k > 2
    seen |= k == q
    return seen


def spread_bits(x):
    """The even bits of a number moved together: half of a Morton code."""
    x = x & 0x55
    x = (x ^ (x >> 1)) & 0x33
    return (x | (x >> 2)) & 0x0F


def woven(x):
    x = (x | (x << 2)) & 0x33
    return (x | (x << 1)) & 0x55


MASKS = {
    "chosen numbers": lambda b, h, q, k: torch.where(q < 4, q, q * 2 - 4) // 2 >= k,
    "chosen truths": lambda b, h, q, k: torch.where(h == 0, q >= k, k >= q),
    "filled": lambda b, h, q, k: (q >= k).masked_fill(q < 3, True),
    "clamped": lambda b, h, q, k: (q.clamp(2, 5) - k.clamp(min=1)).abs() <= 1,
    "extremes": lambda b, h, q, k: torch.maximum(q, k) - torch.minimum(q, k) < 3,
    "divisors below 0": lambda b, h, q, k: (q // -3) % -2 == (k % 3) - 2,
    "rounded towards 0": lambda b, h, q, k: torch.div(q - k, 3, rounding_mode="trunc") == torch.fmod(k - q, 2),
    "rounded quotients": lambda b, h, q, k: (
        (q / 3).floor() + (k / 2).int() == torch.ceil(q / 2) + -(k.float() - 1).trunc() * 1
    ),
    "small integers": lambda b, h, q, k: DOC.to(torch.uint8)[q].long() - 2 < DOC.to(torch.int8)[k],
    "signs": lambda b, h, q, k: torch.sign(q - k - 2) * 2 + 1 > 0,
    "subtracted from": lambda b, h, q, k: torch.rsub(q, 7) > -k + 4,
    "truths as numbers": lambda b, h, q, k: (q > k).int() + (k > 3).long() + (b == h) >= 2,
    "truths added and multiplied": lambda b, h, q, k: (q > k) * (k > 1) + (q == k),
    "truths compared": lambda b, h, q, k: ((q > k) == (k > 3)) & ((q < 5) != (h > 0)) ^ (b > 0),
    "logical functions": lambda b, h, q, k: torch.logical_or(
        torch.logical_and(q > k, k > 1), torch.logical_xor(q > 5, torch.logical_not(k > 5))
    ),
    "numbers as truths": lambda b, h, q, k: torch.logical_and(q % 3, k % 2),
    "halves": lambda b, h, q, k: (q - k <= 2.5) & (k != 1.5) & (q > -0.5),
    "in place": in_place,
    "squares": lambda b, h, q, k: (q - k) ** 2 + torch.square(k) <= 9,
    "powers of the head": lambda b, h, q, k: (q - k) % 2 ** (h + 1) == 0,
    "even bits": lambda b, h, q, k: spread_bits(q) >= spread_bits(k >> 1),
    "woven bits": lambda b, h, q, k: woven(q // 2) | woven(q % 2) << 1 >= (woven(k // 2) | woven(k % 2) << 1),
    "bits of both": lambda b, h, q, k: ((q & k & 7) == 0) | (((q ^ k) & 7) < 3),
    "bits below 0": lambda b, h, q, k: ((q - k) >> 1) & 3 == (~k & -2) % 4,
    "bits of truths": lambda b, h, q, k: ((q > k).long() << 1 | (k > 3).long()) >= 2,
    "members": lambda b, h, q, k: (ROWS[b, h] == k // 2).any(),
    "members below 0": lambda b, h, q, k: (ROWS[b, h] == k - q).any(-1),
    "no members": lambda b, h, q, k: (ROWS[b][h] != k).all(dim=0),
    "counted": lambda b, h, q, k: (ROWS[b, 1] <= k).sum() + (ROWS[b, 1, 0] == q) > 1,
    "isin": lambda b, h, q, k: torch.isin(q - k, torch.tensor([0, 3, 5])) | torch.isin(k, ROWS[b, h]),
    "a list in it": lambda b, h, q, k: (torch.tensor([1, 2, 4]) == q - k).any(),
    "ranges in it": lambda b, h, q, k: ((torch.arange(3) * 3 <= q) & (torch.arange(3) * 3 + 3 > k)).any(),
    "an entry of a list": lambda b, h, q, k: q - k <= torch.tensor([1, 4])[h],
    "mapped": lambda b, h, q, k: torch.vmap(lambda x: x == q - k)(torch.arange(0, 6, 2)).any(),
    "stacked": lambda b, h, q, k: (
        (torch.stack([q // 4, q % 4]) - torch.stack([k // 4, k % 4])).abs() <= torch.tensor([0, 1])
    ).all(),
    "joined": lambda b, h, q, k: (torch.cat([q.view(1), (q + 3).unsqueeze(0), (q * 2)[None]]) == k).any(),
    "joined with one of a table": lambda b, h, q, k: (torch.cat([ROWS[b, h], ROWS[h, b][:1], q[None]]) == k).any(),
    "joined, a part of it": lambda b, h, q, k: (torch.cat([ROWS[b, h], q[None], torch.arange(3)])[::2] == k).any(),
    "joined and chosen": lambda b, h, q, k: torch.cat([torch.tensor([3, 0]), ROWS[b, h], q[None]])[k % 5] >= DOC[q],
    "beside large constants": lambda b, h, q, k: (q < 1e30) & (k - q > -1e19) & (q >= k),
    "counted from the end": lambda b, h, q, k: DOC[k - 3] == DOC[-1 - q],
    "views": lambda b, h, q, k: DOC.view(2, 4).T[k % 4, k // 4] <= DOC[2:].flip(0)[q % 6],
    "slices": lambda b, h, q, k: ROWS[:, 1:, :][b, 0, k % 2] <= ROWS[b, ..., 0][h] + q,
    "shapes": lambda b, h, q, k: (ROWS.permute(2, 0, 1)[:, b].transpose(0, 1)[h] == k).any().reshape(1)[0],
    "small integers that stay small": lambda b, h, q, k: (q % 4).to(torch.int8) >= (k > 2).to(torch.uint8),
    "truths filled": lambda b, h, q, k: torch.minimum((q >= k).masked_fill(k == 2, 0), q < 7),
    "positions beside": lambda b, h, q, k: q.data - 2 < k.data,
    "large products": lambda b, h, q, k: (DOC[q] * 1000003 * (DOC[k] * 1000003)) % 7 != 6,
    "members of a part": lambda b, h, q, k: (ROWS[b, h][:1] == k).any(),
    "three dimensions at once": lambda b, h, q, k: ((ROWS[:, None] == ROWS[None, b]) & (ROWS[:, None] > q)).any(),
    "other element types": lambda b, h, q, k: DOC.to(torch.int16)[q].to(torch.int32) == DOC[k],
    "places between numbers": lambda b, h, q, k: (
        (torch.searchsorted(DOC, q, side="right") > torch.bucketize(k, DOC)) & (torch.bucketize(q, DOC, right=True) < 9)
    ),
    "nothing": lambda b, h, q, k: torch.zeros_like(q, dtype=torch.bool),
    "everything": lambda b, h, q, k: q.new_ones((), dtype=torch.bool) & True,
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_it_means_the_same(mask) -> None:
    imported_alike(mask)


def test_more_keys_than_queries() -> None:
    found = imported_alike(lambda b, h, q, k: (q >= k) & (DOC[q] == DOC[k]), n_q=5)
    assert "align start" in found.text
