"""Weights that are products of features: what they are to take, beside what.

>>> [case.n for case in CASES if case.text == by_features("causal") and not case.backward]
[16384, 256, 512, 1024, 4096, 1048576]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import elu, pad

from attnspec.errors.diagnostic import SpecError
from attnspec.relation.sizes import Sizes
from attnspec.runtime.attention import Attention, compile
from attnspec.runtime.bench.clock import Timing, on_threads, processor_time, race
from attnspec.runtime.bench.kept_memory import memory_kept
from attnspec.runtime.bench.setup import Setup, call_of, inputs
from attnspec.runtime.prepare.example import example

HEADS, DIM = 8, 64
"""Of most cases, whose vectors have as many features as entries."""
CHUNK = 64
"""Positions that the plain form computes pair by pair."""
UNGATED = "attention ungated { attend causal  linear x }"
LONGER = 16
"""Times that growth is measured over."""
_SMALL = 4096
"""Calls of fewer positions are timed several at once."""


def by_features(pattern: str) -> str:
    """The pattern of a spec with the weights of Katharopoulos et al. (2020)."""
    return f"attention by_features {{ include {pattern}  linear elu(x) + 1  divide total }}"


def by_softmax(pattern: str) -> str:
    """The pattern of a spec with softmax."""
    return f"attention by_softmax {{ include {pattern} }}"


@dataclass(frozen=True)
class Bar:
    """What a case is compared with, and how far it is to be from that.

    ``kind`` is ``"time"`` (at most ``limit`` times the peer's), ``"speed"`` (at least ``limit`` times as fast) or
    ``"growth"`` (the peer has as many tokens in sequences of a sixteenth of the length, so that memory is as much, and
    ``limit`` is the largest exponent of n). Without a limit it is only compared.
    """

    peer: str
    kind: str
    limit: float | None = None

    def found(self, mine: Timing, theirs: Timing) -> float:
        """The number that the limit is for, by medians."""
        times = mine.median / theirs.median
        return {"time": times, "speed": 1 / times, "growth": 1 + math.log(times, LONGER)}[self.kind]

    def holds(self, found: float) -> bool | None:
        """Whether a number keeps to the limit; None without one."""
        if self.limit is None:
            return None
        return found >= self.limit if self.kind == "speed" else found <= self.limit


READING, ONE_PASS, CHUNKED, SOFTMAX, APART, SHORTER, WITHOUT, BY_FEATURES = (
    "q + k + v",
    "addcmul(q, k, v), in one pass",
    f"plain torch, chunks of {CHUNK}",
    "the pattern with softmax",
    "64 sequences of a 64th",
    "16 sequences of a 16th",
    "without gates",
    "elu(x) + 1, one total",
)


@dataclass(frozen=True)
class Case:
    """A spec as text, with what it is compared to; ``softmax`` is the same pattern with softmax.

    ``threads`` is 1 for growth: two heads on two threads would count how long one waits for the other. Calls take their
    memory from one another there: what the system does to clear it does not depend on the pattern.
    """

    what: str
    text: str
    n: int
    bars: tuple[Bar, ...]
    softmax: str = ""
    backward: bool = False
    heads: int = HEADS
    threads: int | None = None

    def setup(self, n: int | None = None, batch: int = 1) -> Setup:
        """What is run, by itself or in another length."""
        sizes = Sizes(n or self.n, n or self.n, self.heads, self.heads, batch)
        return Setup(sizes, DIM, torch.float32, self.backward, 0)


def _cases() -> Iterator[Case]:
    causal, softmax = by_features("causal"), by_softmax("causal")
    faster, growth = Bar(SOFTMAX, "speed", 1.0), Bar(SHORTER, "growth", 1.05)
    whole = Bar(READING, "time", 1.5), Bar(ONE_PASS, "time"), Bar(CHUNKED, "speed", 5.0), Bar(SOFTMAX, "speed", 30.0)
    yield Case("causal", causal, 16384, whole, softmax)
    yield Case("causal", causal, 16384, (Bar(CHUNKED, "speed", 3.5),), backward=True)
    for n in (256, 512, 1024, 4096):
        yield Case("causal", causal, n, (faster,), softmax)
    yield Case("causal", causal, 256, (faster,), softmax, backward=True)
    yield Case("causal", causal, 2**20, (Bar(APART, "time", 1.2),), heads=2)
    for what, pattern in (
        ("window 1024", "window(width = 1024)"),
        ("chunks of 1024", "chunked(size = 1024)"),
        ("documents, mean 500", "packed"),
        ("dilated 512 x 16", "dilated(width = 512, rate = 16)"),
    ):
        yield Case(what, by_features(pattern), 16384, (faster,), by_softmax(pattern))
        # The dilated window reaches over 8,192 positions: half of 16,384 see less of it, and pairs grow faster than n.
        n = 2**20 if what.startswith("dilated") else 2**18
        yield Case(f"{what}, one thread", by_features(pattern), n, (growth,), heads=2, threads=1)
    for what, spec, limit in (
        ("scalar gates", "mamba2", 1.25),
        ("gates by channel", "gla", 2.5),
        ("delta", "delta", 3),
        ("delta and scalar gates", "gated_delta", 3),
    ):
        yield Case(what, f"attention gated {{ include {spec} }}", 16384, (Bar(WITHOUT, "time", limit),))
    latte = "attention latent { include latte }"
    yield Case("a divisor for each feature", latte, 16384, (Bar(BY_FEATURES, "time"),))
    yield Case("a divisor for each feature", latte, 16384, (Bar(BY_FEATURES, "time"),), backward=True)


CASES = tuple(_cases())


@dataclass(frozen=True)
class Measured:
    """The timings of a case, by who was timed; ``missing`` says why there are none."""

    case: Case
    timings: dict[str, Timing]
    missing: str = ""

    def found(self, bar: Bar) -> float | None:
        """The number that a limit is for; None where nothing was timed."""
        return bar.found(self.timings["attnspec"], self.timings[bar.peer]) if self.timings else None


def measure(cases: tuple[Case, ...], runs: int, tick: Callable[[str], object] = lambda _: None) -> Iterator[Measured]:
    """Cases on the CPU, each in one interleaved run after a round that is not counted.

    Times are those of the processor, summed over threads, which other work on the machine changes least.
    """
    for case in cases:
        tick(f"{case.what}, {case.n:,}")
        try:
            attend = compile(case.text)
        except SpecError as error:
            yield Measured(case, {}, error.diagnostics[0].title)
            continue
        times = max(1, _SMALL // case.n)

        def clock(call: Callable[[], object], times: int = times) -> float:
            return processor_time(lambda: [call() for _ in range(times)]) / times

        with on_threads(case.threads), memory_kept() if case.threads == 1 else nullcontext():
            found = race(contenders(case, attend), runs, clock=clock)
        yield Measured(case, found)


def contenders(case: Case, attend: Attention) -> dict[str, Callable[[], object]]:
    """What is timed, by name, on random tensors."""
    setup = case.setup()
    tensors = inputs(setup)
    q, k, v, _ = tensors

    def ours(what: Attention, setup: Setup, tensors: tuple[Tensor, ...]) -> Callable[[], object]:
        given = example(what.spec, setup.sizes, torch.Generator().manual_seed(0), {"dim": DIM})
        return call_of(lambda q, k, v: what(q, k, v, inputs=given), tensors, setup)

    found = {"attnspec": ours(attend, setup, tensors)}
    for bar in case.bars:
        if bar.peer == READING:
            found[READING] = lambda: q + k + v  # in new memory, as the output of a call is
        elif bar.peer == ONE_PASS:
            found[ONE_PASS] = lambda: torch.addcmul(q, k, v)
        elif bar.peer == CHUNKED:
            found[CHUNKED] = call_of(chunked, tensors, setup)
        elif bar.peer == SOFTMAX:
            found[SOFTMAX] = ours(compile(case.softmax), setup, tensors)
        elif bar.peer == WITHOUT:
            found[WITHOUT] = ours(compile(UNGATED), setup, tensors)
        elif bar.peer == BY_FEATURES:
            found[BY_FEATURES] = ours(compile(by_features("causal")), setup, tensors)
        else:
            cuts = 64 if bar.peer == APART else LONGER
            other = case.setup(case.n // cuts, cuts)
            found[bar.peer] = ours(attend, other, inputs(other))
    return found


def chunked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention with weights of ``elu(x) + 1``, divided, in operations of torch: pairs of one chunk, and states.

    What users write where no kernel serves; the length is a multiple of CHUNK.
    """
    a, b, v = (t.view(*t.shape[:2], -1, CHUNK, t.shape[3]) for t in (elu(q) + 1, elu(k) + 1, v))
    before = pad((b.mT @ v)[:, :, :-1].cumsum(2), (0, 0, 0, 0, 1, 0))
    keys = pad(b.sum(3, keepdim=True)[:, :, :-1].cumsum(2), (0, 0, 0, 0, 1, 0))
    weights = (a @ b.mT).tril()
    total = weights.sum(-1, keepdim=True) + a @ keys.mT
    out: Tensor = (weights @ v + a @ before) / total
    return out.flatten(2, 3)
