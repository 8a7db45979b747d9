"""The small model that trains over segments: what it remembers, and what it cannot without memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.runtime.modules.segment_model import segment_model

SEGMENT, SYMBOLS, FILLER, ASKED = 4, 8, 100, 101


def sequences(segments: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A symbol in the first segment, nothing of interest, and the same symbol at the end, which alone is counted."""
    ids = torch.full((size, segments * SEGMENT), FILLER)
    symbol = torch.randint(SYMBOLS, (size,), generator=generator)
    ids[:, 1], ids[:, -2], ids[:, -1] = symbol, ASKED, symbol
    labels = torch.full_like(ids, -100)
    labels[:, -1] = symbol
    return ids, labels


def loss_of(slots: int, stages: tuple[tuple[int, int], ...]) -> float:
    """The loss over 32 segments of a model that was trained on up to so many of them, so many steps."""
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = segment_model(attnspec.compile("rmt", slots=slots, segment=SEGMENT), heads=2, width=32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for most, steps in stages:
        for _ in range(steps):
            segments = int(torch.randint(most // 2, most + 1, (), generator=generator))
            ids, labels = sequences(segments, 64, generator)
            optimizer.zero_grad()
            model(ids, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    with torch.no_grad():
        ids, labels = sequences(32, 256, generator)
        return float(model(ids, labels=labels).loss)


@pytest.mark.slow
def test_a_symbol_is_copied_over_32_segments() -> None:
    """Which no model without memory can: it does no better than to guess. Lengths grow while it learns."""
    memory = loss_of(2, ((2, 100), (4, 40), (8, 40), (16, 40)))
    without = loss_of(0, ((2, 100), (4, 10)))
    assert without > 1.9  # log 8 = 2.08
    assert memory < without / 10
