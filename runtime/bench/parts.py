"""A call in parts beside the whole call: as one part, and as 4 x 4 parts that are added in place or merged.

>>> [(case.pattern, case.bars[ADDED]) for case in CASES][:2]
[('causal', 1.15), ('window width=1024', 1.15)]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attnspec.runtime.attention import compile
from attnspec.runtime.bench.clock import Timing, processor_time, race
from attnspec.runtime.cpp.merge import merge

WHOLE, ONE, ADDED, MERGED = "the whole call", "one part", "4 x 4 parts, added", "4 x 4 parts, merged"
Pair = tuple[Tensor, Tensor]
CUTS = 4
"""Parts of the queries, and of the keys."""


@dataclass(frozen=True)
class Case:
    """A pattern, and for each way to compute its call in parts how many times the whole call's time that may take."""

    spec: str
    params: Mapping[str, int] = field(default_factory=dict)
    many: float = 1.15
    n: int = 16384
    heads: int = 4
    kv_heads: int = 2
    dim: int = 64

    @property
    def pattern(self) -> str:
        """The pattern and its parameters."""
        return " ".join([self.spec, *(f"{name}={value}" for name, value in self.params.items())])

    @property
    def bars(self) -> dict[str, float]:
        """At most so many times the whole call's time."""
        return {ONE: 1.03, ADDED: self.many, MERGED: self.many}


CASES = (
    Case("causal"),
    Case("window", {"width": 1024}),
    Case("dilated", {"width": 512, "rate": 8}),
    Case("longformer", {"width": 512, "globals": 16}, many=1.25),
)


@dataclass(frozen=True)
class InParts:
    """The timings of a case, by who was timed."""

    case: Case
    timings: dict[str, Timing]

    def times(self, way: str) -> float:
        """The time of one way over that of the whole call, by medians."""
        return self.timings[way].median / self.timings[WHOLE].median


def measure_parts(
    cases: tuple[Case, ...], runs: int, tick: Callable[[str], object] = lambda _: None
) -> Iterator[InParts]:
    """Cases on the CPU, without gradients, as :func:`attnspec.runtime.bench.decode.measure` has its rows."""
    for case in cases:
        tick(f"parts of {case.pattern}, {case.n:,}")
        with torch.no_grad():
            yield InParts(case, race(in_parts(case), runs, clock=processor_time))


def in_parts(case: Case) -> dict[str, Callable[[], list[Pair]]]:
    """What is timed, by name, on random tensors: outputs and log-sum-exps of all rows, of a quarter of them each."""
    attend, n, generator = compile(case.spec, params=case.params), case.n, torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, h, n, case.dim, generator=generator) for h in (case.heads, case.kv_heads, case.kv_heads))
    size = -(-n // CUTS)

    def parts(first: int, **into: Tensor) -> list[Pair]:
        rows, found = q[:, :, first : first + size], []
        for start in range(0, n, size):
            keys, values = (t[:, :, start : start + size] for t in (k, v))
            found.append(attend.part(rows, keys, values, q_start=first, k_start=start, n=n, **into))  # type: ignore[arg-type]
        return found

    def added(first: int) -> Pair:
        shape = q[:, :, first : first + size].shape
        return parts(first, out=torch.zeros(shape), lse=torch.full(shape[:3], float("-inf")))[-1]

    return {
        WHOLE: lambda: [attend(q, k, v, return_lse=True)],
        ONE: lambda: [attend.part(q, k, v, q_start=0, k_start=0, n=n)],
        ADDED: lambda: [added(first) for first in range(0, n, size)],
        MERGED: lambda: [merge(parts(first)) for first in range(0, n, size)],
    }
