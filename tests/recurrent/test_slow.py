"""What takes long: two processes, and a memory that is needed over 32 segments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import attnspec
from attnspec.runtime.recurrent.recurrent import Recurrent

SYMBOLS, ASK, FILL = 8, 8, 9
SEGMENT, WIDTH = 4, 32
ALONE = f"attention alone {{ axis token[n]  token -> token: causal  recur token by {SEGMENT} }}"


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.recurrent_processes"]
    both = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    for process in both:
        _, said = process.communicate(timeout=600)
        assert process.returncode == 0, said


class Decoder(nn.Module):
    """Two layers of torch's, with learned positions."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.positions = nn.Embedding(2 * SEGMENT, WIDTH)

    def forward(self, vectors: Tensor) -> Tensor:
        """Causal."""
        rows = vectors.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(rows)
        found: Tensor = self.layers(vectors + self.positions(torch.arange(rows)), mask=mask, is_causal=True)
        return found


def copied(batch: int, segments: int, last_only: bool = False) -> tuple[Tensor, Tensor]:
    """Two symbols in the first segment, never seen again, that each later segment asks for."""
    shown = torch.randint(SYMBOLS, (batch, 2))
    ids = torch.full((batch, segments * SEGMENT), FILL)
    ids[:, ::SEGMENT] = ASK
    ids[:, :2] = shown
    labels = torch.full_like(ids, -100)
    for at in range((segments - 1) * SEGMENT if last_only else SEGMENT, ids.shape[1], SEGMENT):
        labels[:, at + 1 : at + 3] = shown
    return ids, labels


def learned(spec: str, steps: int, lengths: tuple[int, ...], **options: int) -> float:
    """The loss in the last of 32 segments, after training on ever more of them."""
    torch.manual_seed(0)
    embed, head = nn.Embedding(FILL + 1, WIDTH), nn.Linear(WIDTH, SYMBOLS)
    model: Recurrent = attnspec.recurrent(Decoder(), spec, embed=embed, head=head, **options)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    stage, recent = 0, 1.0
    for _ in range(steps):
        ids, labels = copied(64, lengths[stage])
        loss = model(ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent = 0.9 * recent + 0.1 * loss.item()
        if recent < 0.08:
            if stage == len(lengths) - 1:
                break
            stage, recent = stage + 1, 1.0
    with torch.no_grad():
        ids, labels = copied(512, 32, last_only=True)
        return float(model(ids, labels=labels).loss)


@pytest.mark.slow
def test_a_memory_copies_over_32_segments() -> None:
    """Without one no more can be known than that there are 8 symbols, a loss of log 8."""
    memoryless = learned(ALONE, 100, (3,))
    assert memoryless > 2.0
    assert learned("rmt", 700, (4, 8, 16, 32), slots=2, segment=SEGMENT) < memoryless / 10
