"""The calls that ``attnspec bench --device cuda --suite`` measures: long ones, and shipped specs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from attnspec.check.check import check_text
from attnspec.language.load import load, shipped
from attnspec.relation.lower import listed_heads
from attnspec.relation.sizes import Sizes, resized
from attnspec.runtime.attention import Attention, compile
from attnspec.runtime.bench.setup import Setup

WIDTH = 2048
"""Heads times head size of the long calls."""
TOKENS = 16384
"""Tokens of the batch that short calls are made up to."""


@dataclass(frozen=True)
class Row:
    """A call: a spec with parameters, and sizes; ``flex`` says whether FlexAttention is compiled for it.

    ``m`` is the length that is asked for, which beside axes is their ``n``.
    """

    name: str
    spec: str
    params: tuple[tuple[str, object], ...]
    m: int
    n_q: int | None
    heads: int | None
    kv_heads: int | None
    batch: int
    dim: int
    dtype: str
    flex: bool

    def attend(self) -> Attention:
        """The compiled pattern."""
        return compile(self.spec, params=dict(self.params))

    def setup(self, attend: Attention, device: torch.device, runs: int) -> Setup:
        """What to run, forward only."""
        spec = attend.spec
        heads = self.heads or listed_heads(spec) or 8
        found = Sizes(self.m, self.n_q or self.m, heads, self.kv_heads or heads, self.batch, spec.align == "end")
        found = resized(spec, found, self.m) if spec.axes else found
        return Setup(found, self.dim, getattr(torch, self.dtype), False, runs, device)


def long_rows(dtype: str) -> Iterator[Row]:
    """Long calls with heads times head size of a usual model, the most telling first."""

    def row(spec: str, n: int, dim: int = 128, n_q: int | None = None, shared: int = 1, **params: object) -> Row:
        heads = WIDTH // dim
        said = " ".join(f"{name}={_said(value)}" for name, value in params.items())
        name = f"{spec} {said}".rstrip() + ("" if n_q is None else f" n_q={n_q}") + ("" if shared == 1 else " gqa")
        batch = max(1, TOKENS // n) if n_q is None else 16
        return Row(name, spec, tuple(params.items()), n, n_q, heads, heads // shared, batch, dim, dtype, True)

    yield row("causal", 16384)
    yield row("window", 32768, width=1024)
    yield row("packed", 32768)
    yield row("longformer", 32768)
    yield row("sinks", 32768)
    yield row("dilated", 32768, rate=8)
    yield row("sparse_strided", 32768, stride=128)
    yield row("longnet", 32768)
    yield replace(row("reformer", 131072, dim=64), heads=8, kv_heads=8)
    yield row("causal", 16384, dim=64)
    yield row("dense", 16384)
    yield row("dense", 16384, dim=64)
    for n in (32768, 8192, 4096):
        for spec in ("causal", "dense"):
            for dim in (128, 64):
                yield row(spec, n, dim=dim)
    for n in (16384, 65536, 131072):
        yield row("packed", n)
    yield row("window", 32768, dim=64, width=1024)
    yield row("causal", 16384, shared=4)
    yield row("causal", 32768, n_q=1, shared=4)


def with_kernels() -> tuple[str, ...]:
    """The shipped specs that are measured: those with plain softmax, which others compute too."""
    return tuple(name for name in shipped() if check_text(*load(name)[:1]).softmax_only)


def shipped_rows(n: int, heads: int | None, kv_heads: int | None, batch: int, dim: int, dtype: str) -> Iterator[Row]:
    """Every shipped spec with its own parameters, at one size; without FlexAttention."""
    for name in with_kernels():
        yield Row(name, name, (), n, None, heads, kv_heads, batch, dim, dtype, False)


def _said(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
