"""A small byte-level language model that trains on a text with a pattern as its attention: an example on real input."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attnspec.relation.sizes import Sizes
from attnspec.runtime.attention import Attention
from attnspec.runtime.prepare.example import example


@dataclass(frozen=True)
class Step:
    """One step of training: its number, the loss in bits per byte, and the seconds since the start."""

    number: int
    bits: float
    seconds: float


class Block(nn.Module):
    """A pre-norm transformer block; the float inputs of its attention are learned, others stay as they are given."""

    def __init__(self, width: int, heads: int, attend: Callable[..., Tensor], inputs: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.heads = heads
        self.attend = attend
        self.learned = nn.ParameterDict({name: t.clone() for name, t in inputs.items() if t.is_floating_point()})
        self.given = [name for name, t in inputs.items() if not t.is_floating_point()]
        for name in self.given:
            self.register_buffer(f"given_{name}", inputs[name])
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, width) to the same."""
        batch, length, width = x.shape
        qkv = self.qkv(self.before_attention(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        given = {name: self.get_buffer(f"given_{name}") for name in self.given}
        seen = self.attend(q, k, v, **given, **self.learned).transpose(1, 2).reshape(batch, length, width)
        x = x + self.out(seen)
        return x + self.mlp(self.before_mlp(x))  # type: ignore[no-any-return]


class ByteModel(nn.Module):
    """Bytes to logits of the next byte; positions are learned. ``call`` may compute ``attend`` in another way."""

    def __init__(
        self,
        attend: Attention,
        length: int,
        width: int = 128,
        heads: int = 4,
        layers: int = 2,
        call: Callable[..., Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.bytes, self.positions = nn.Embedding(256, width), nn.Embedding(length, width)
        sizes = Sizes(length, length, heads, heads, 1, attend.spec.align == "end")
        inputs = example(attend.spec, sizes, torch.Generator().manual_seed(0))
        self.blocks = nn.ModuleList(Block(width, heads, call or attend, inputs) for _ in range(layers))
        self.norm, self.logits = nn.LayerNorm(width), nn.Linear(width, 256)

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """(batch, length) bytes to (batch, length, 256) logits; ``positions`` are theirs, if not 0, 1, ..."""
        at = torch.arange(tokens.shape[1], device=tokens.device) if positions is None else positions
        x = self.bytes(tokens) + self.positions(at)
        for block in self.blocks:
            x = block(x)
        return self.logits(self.norm(x))  # type: ignore[no-any-return]


def train(
    data: bytes,
    attend: Attention,
    length: int,
    steps: int,
    heads: int = 4,
    seed: int = 0,
    device: torch.device | None = None,
) -> Iterator[Step]:
    """Train on random stretches of ``data`` of ``length`` bytes, on the CPU or a device, and yield each step.

    ``attend`` must not look ahead; its integer and boolean inputs are examples, its float inputs learned. Raises
    ValueError if the data is shorter than one stretch.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ByteModel(attend, length, heads=heads).to(device)

    def loss(piece: Tensor) -> Tensor:
        return cross_entropy(model(piece[:, :-1]).flatten(0, 1), piece[0, 1:])

    return steps_on(data, length, steps, model, loss, seed, device)


def steps_on(
    data: bytes,
    length: int,
    steps: int,
    model: nn.Module,
    loss: Callable[[Tensor], Tensor],
    seed: int,
    device: torch.device | None,
    together: Callable[[Tensor], Tensor] = lambda loss: loss,
) -> Iterator[Step]:
    """Steps on random stretches of ``length + 1`` bytes: ``loss`` is that of one, (1, length + 1).

    ``together`` puts gradients together after each backward pass where several processes have a part of them each, and
    the loss of this one, which it returns.

    Raises ValueError if the data is shorter than one stretch.
    """
    if len(data) < length + 1:
        raise ValueError(f"the text has {len(data):,} bytes; at least {length + 1:,} are needed")
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    text = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    start = time.perf_counter()
    for number in range(1, steps + 1):
        at = int(torch.randint(len(data) - length, (), generator=generator))
        found = loss(text[at : at + length + 1].long()[None].to(device))
        optimizer.zero_grad()
        found.backward()  # type: ignore[no-untyped-call]
        whole = together(found.detach())
        optimizer.step()
        yield Step(number, whole.item() / 0.6931471805599453, time.perf_counter() - start)
