"""A small byte-level language model that trains over the segments of a text, as a spec says they follow one another."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from attnspec.runtime.attention import Attention
from attnspec.runtime.modules.byte_model import Step, steps_on
from attnspec.runtime.recurrent.recurrent import Recurrent, recurrent
from attnspec.runtime.recurrent.segment import IGNORED

WIDTH, LAYERS = 128, 2


class Layer(nn.Module):
    """A pre-norm transformer block with rotary positions; its keys may begin with what it kept of earlier segments."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.kv, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, attend: Callable[..., Tensor], memory: Tensor) -> Tensor:
        """(batch, rows, width) to the same; ``memory`` are what it was given before, (batch, kept, width)."""
        batch, rows, width = x.shape
        known = torch.cat([memory, x], 1)
        q = self.q(self.before_attention(x)).view(batch, rows, self.heads, -1).transpose(1, 2)
        kv = self.kv(self.before_attention(known)).view(batch, known.shape[1], 2, self.heads, -1)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        seen = attend(_turned(q, memory.shape[1]), _turned(k, 0), v).transpose(1, 2).reshape(batch, rows, width)
        x = x + self.out(seen)
        return x + self.mlp(self.before_mlp(x))  # type: ignore[no-any-return]


def _turned(x: Tensor, first: int) -> Tensor:
    """Rotary positions from ``first`` on (Su et al., 2021): neighbouring halves of each head turn as pairs."""
    half = x.shape[-1] // 2
    place = torch.arange(first, first + x.shape[2], device=x.device)[:, None]
    angle = place * 10000.0 ** (-torch.arange(half, device=x.device) / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1).to(x.dtype)


class Layers(nn.Module):
    """What runs over one segment: vectors to last hidden states, and what each layer was given."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(
        self, vectors: Tensor, attend: Callable[..., Tensor], memory: tuple[Tensor, ...] | None = None
    ) -> Tensor | tuple[Tensor, tuple[Tensor, ...]]:
        """(batch, rows, width) to the same; with ``memory``, one for each layer or empty, also what each layer got."""
        x, given = vectors, []
        for number, layer in enumerate(self.layers):
            given.append(x)
            x = layer(x, attend, memory[number] if memory else x[:, :0])
        return self.norm(x) if memory is None else (self.norm(x), tuple(given))


def segment_model(attend: Attention, heads: int = 4, width: int = WIDTH, layers: int = LAYERS) -> Recurrent:
    """A model of bytes that runs over segments with the attention of a spec."""
    return recurrent(Layers(width, heads, layers), attend, embed=nn.Embedding(256, width), head=nn.Linear(width, 256))


def train_segments(
    data: bytes,
    attend: Attention,
    length: int,
    steps: int,
    heads: int = 4,
    seed: int = 0,
    device: torch.device | None = None,
) -> Iterator[Step]:
    """Train over the segments of random stretches of ``data`` of ``length`` bytes, and yield each step.

    Bytes that a recall reads before they are to be predicted are not counted. Raises ValueError if the data is shorter
    than one stretch.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = segment_model(attend, heads).to(device)

    def loss(piece: Tensor) -> Tensor:
        ids = piece[:, :-1]
        found: Tensor = model(ids, labels=ids.masked_fill(model.foreseen(ids), IGNORED)).loss
        return found

    return steps_on(data, length, steps, model, loss, seed, device)
