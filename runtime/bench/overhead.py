"""The price of a call: the processor's time for calls so small that they compute next to nothing, beside SDPA's.

>>> [row.what for row in overheads(rounds=1, calls=1)]
['a mask alone', 'an integer as input', 'rotations', 'SDPA, is_causal']
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from attnspec.runtime.attention import compile
from attnspec.runtime.bench.clock import on_threads

LENGTH, DIM = 16, 64
"""Of the calls, which have one head, float32."""
_CASES = (("a mask alone", "causal"), ("an integer as input", "padded"), ("rotations", "rope"))


@dataclass(frozen=True)
class Overhead:
    """Seconds of a call: of vectors without gradients, and the forward pass of vectors that ask for them."""

    what: str
    spec: str
    plain: float
    kept: float


def overheads(rounds: int = 30, calls: int = 200) -> list[Overhead]:
    """The time of one thread for a call, the least of ``rounds`` that are interleaved, each the mean of ``calls``."""
    with on_threads(1):
        contenders = {(what, spec): _call(spec) for what, spec in (*_CASES, ("SDPA, is_causal", ""))}
        tensors = [torch.randn(3, 1, 1, LENGTH, DIM).unbind(0) for _ in range(2)]
        kept = tuple(t.detach().requires_grad_() for t in tensors[1])
        best: dict[tuple[str, str], list[float]] = {}
        for _ in range(rounds + 1):  # the first makes kernels, and is not counted
            for name, call in contenders.items():
                best.setdefault(name, []).extend(_seconds(call, t, calls) for t in (tensors[0], kept))
    return [Overhead(*name, min(found[2::2]), min(found[3::2])) for name, found in best.items()]


def _call(spec: str) -> Callable[..., Tensor]:
    if not spec:
        return lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=True)
    attend, inputs = compile(spec), {"length": torch.tensor([LENGTH])} if spec == "padded" else None
    return lambda q, k, v: attend(q, k, v, inputs=inputs)


def _seconds(call: Callable[..., Tensor], tensors: tuple[Tensor, ...], calls: int) -> float:
    start = time.thread_time()
    for _ in range(calls):
        call(*tensors)
    return (time.thread_time() - start) / calls
