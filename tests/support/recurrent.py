"""Small functions on vectors to run over segments, and loops over segments written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

import attnspec
from attnspec.runtime.recurrent.recurrent import Recurrent

WIDTH, WORDS = 16, 29


class Small(nn.Module):
    """One layer of attention of two heads and a perceptron, with norms and positions."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Dropout(dropout), nn.Linear(WIDTH, WIDTH))
        self.before, self.norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def whole(self, vectors: Tensor, kept: Tensor, attend: Callable[..., Tensor]) -> Tensor:
        """Of vectors that see what is kept, projected again, and each other as ``attend`` says."""
        at = torch.arange(vectors.shape[1], device=vectors.device)[:, None] / 7.0
        x = vectors + torch.sin(at + torch.arange(WIDTH, device=vectors.device)).to(vectors.dtype)
        q = self.qkv(self.before(x))[..., :WIDTH]
        k, v = self.qkv(self.before(torch.cat([kept, x], 1)))[..., WIDTH:].chunk(2, -1)
        seen = attend(*(t.unflatten(-1, (2, -1)).transpose(1, 2) for t in (q, k, v)))
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        hidden: Tensor = self.norm(x + self.mlp(x))
        return hidden

    def forward(self, vectors: Tensor) -> Tensor:
        """Causal."""
        return self.whole(vectors, vectors[:, :0], causal)


class Attending(Small):
    """The same with the attention that it is given."""

    def forward(self, vectors: Tensor, attend: Callable[..., Tensor]) -> Tensor:  # type: ignore[override]
        """As the attention says."""
        return self.whole(vectors, vectors[:, :0], attend)


class Layered(Small):
    """The same with vectors of segments before, of which it makes keys and values again, as Transformer-XL does."""

    def forward(self, vectors: Tensor, memory: tuple[Tensor, ...]) -> Any:  # type: ignore[override]
        """Causal, behind what is remembered."""
        kept = memory[0] if memory else vectors[:, :0]
        return self.whole(vectors, kept, causal), (vectors,)


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each row sees itself and all before it; keys before the rows are seen by all."""
    mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(k.shape[2] - q.shape[2])
    return scaled_dot_product_attention(q, k, v, mask)


def wrapped(
    step: nn.Module, spec: str | attnspec.Attention, dtype: torch.dtype = torch.float64, **options: Any
) -> Recurrent:
    """A function over segments, all drawn from one seed."""
    torch.manual_seed(0)
    embed, head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS)
    for p in step.parameters():
        nn.init.normal_(p, std=0.3)
    return attnspec.recurrent(step.to(dtype), spec, embed=embed.to(dtype), head=head.to(dtype), **options)


def tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    """Some ids."""
    return torch.randint(WORDS, (batch, length), generator=torch.Generator().manual_seed(seed))


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of transformers: what stands at a place is to predict the label of the next one."""
    return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """By name, of all parameters; zeros where there is none."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {name: torch.zeros_like(p) if g is None else g for name, p, g in zip(names, parameters, found, strict=True)}


def close(got: dict[str, Tensor], want: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    """Assert that the same names have numbers that are close."""
    assert got.keys() == want.keys()
    for name, t in want.items():
        assert got[name].shape == t.shape, name
        assert float((got[name] - t).detach().abs().max()) <= tolerance, name
