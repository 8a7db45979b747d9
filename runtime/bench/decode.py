"""Few queries against many keys, as in generation, beside SDPA, and what reading the keys and values takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from attnspec.runtime.attention import compile
from attnspec.runtime.bench.clock import Timing, processor_time, race

READING = "reading"


@dataclass(frozen=True)
class Row:
    """A call, and what it is compared with.

    ``window`` is the width of a causal window, 0 for all keys. The peer for one query is SDPA with the query heads of a
    key head as rows, on the keys that the query sees; for several it is SDPA with the mask.
    """

    n: int
    n_q: int = 1
    dtype: str = "float32"
    window: int = 0
    heads: int = 32
    kv_heads: int = 8
    dim: int = 128

    @property
    def name(self) -> str:
        """The pattern."""
        return f"window width={self.window}" if self.window else "causal"

    @property
    def peer(self) -> str:
        """How SDPA is called."""
        if self.n_q > 1:
            return "SDPA mask"
        return "SDPA on the slice" if self.window else "SDPA, heads as rows"

    @property
    def seen(self) -> int:
        """How many keys at the end some query sees."""
        return min(self.n, self.window + self.n_q - 1) if self.window else self.n

    @property
    def bytes(self) -> int:
        """What must be read: the keys and values that are seen."""
        return 2 * self.kv_heads * self.seen * self.dim * torch.empty(0, dtype=getattr(torch, self.dtype)).itemsize


ROWS = (
    *(Row(n) for n in (256, 4096, 32768)),
    *(Row(n, n_q=8) for n in (256, 4096, 32768)),
    Row(32768, window=1024),
    *(Row(n, dtype="bfloat16") for n in (256, 4096, 32768)),
    Row(32768, dtype="float16"),
)


@dataclass(frozen=True)
class Decoded:
    """The timings of a row: of attnspec, of the peer, and of reading the keys and values once."""

    row: Row
    attnspec: Timing
    peer: Timing
    reading: Timing

    @property
    def times(self) -> float:
        """The time of attnspec over that of the peer, by medians."""
        return self.attnspec.median / self.peer.median

    @property
    def bandwidth(self) -> float:
        """Bytes per second when keys and values are read and nothing else is done: the floor is that."""
        return self.row.bytes / self.reading.median


def measure(rows: tuple[Row, ...], runs: int, tick: Callable[[str], object] = lambda _: None) -> Iterator[Decoded]:
    """Rows on the CPU, each in one interleaved run after a round that is not counted, without gradients.

    Times are those of the processor, summed over threads, which other work on the machine changes least.
    """
    for row in rows:
        tick(f"{row.name}, {row.n:,} keys")
        with torch.no_grad():
            found = race(calls(row), runs, clock=processor_time)
        yield Decoded(row, found["attnspec"], found[row.peer], found[READING])


def calls(row: Row) -> dict[str, Callable[[], object]]:
    """What is timed, by name, on random tensors."""
    dtype, generator = getattr(torch, row.dtype), torch.Generator().manual_seed(0)

    def normal(heads: int, length: int) -> Tensor:
        return torch.randn(1, heads, length, row.dim, generator=generator).to(dtype)

    q, k, v = normal(row.heads, row.n_q), normal(row.kv_heads, row.n), normal(row.kv_heads, row.n)
    near_k, near_v = (t[:, :, row.n - row.seen :] for t in (k, v))
    attend = compile("window", width=row.window) if row.window else compile("causal")
    mask = torch.ones(row.n_q, row.seen, dtype=torch.bool).tril(row.seen - row.n_q)
    if row.window:
        mask = mask.triu(row.seen - row.n_q - row.window + 1)

    def peer() -> Tensor:
        if row.n_q == 1:
            rows = q.view(1, row.kv_heads, -1, row.dim)
            return sdpa(rows, near_k, near_v)
        return sdpa(q, near_k, near_v, attn_mask=mask, enable_gqa=row.heads != row.kv_heads)

    def reading() -> object:
        return [t.view(torch.float32).sum() for t in (near_k, near_v)]  # as it is: half precision is not converted

    return {"attnspec": lambda: attend(q, k, v), row.peer: peer, READING: reading}
