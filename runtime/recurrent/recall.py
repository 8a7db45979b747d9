"""What a segment asks the vectors of segments before it (HMT: He et al., 2024, section 3.3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Recalled(nn.Module):
    """A learned prompt, whose last hidden states ask a store: queries and keys by learned maps, its vectors as values.

    ``prompt`` is (rows, width); ``query`` and ``key`` map width numbers to ``dim``, without bias. The scale is
    ``dim ** -0.5``, as in the paper (the published code has ``1 / dim`` in some cases).
    """

    def __init__(self, prompt: Tensor, dim: int) -> None:
        super().__init__()
        self.prompt = nn.Parameter(prompt)
        self.query = nn.Linear(prompt.shape[1], dim, bias=False, device=prompt.device, dtype=prompt.dtype)
        self.key = nn.Linear(prompt.shape[1], dim, bias=False, device=prompt.device, dtype=prompt.dtype)

    def forward(self, asking: Tensor, store: Tensor) -> Tensor:
        """(batch, rows, width) hidden states and (batch, kept, width) vectors to (batch, rows, width)."""
        scores = self.query(asking) @ self.key(store).transpose(1, 2) / math.sqrt(self.query.out_features)
        answer: Tensor = torch.softmax(scores, -1) @ store
        return answer
