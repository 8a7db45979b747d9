"""Checks of the Triton kernels: every schedule that can be picked, forward and all gradients, against dense float64.

A check is a small call of one pattern with one head size, element type and schedule. They come in order of what they
say: all schedules on one pattern first, then every mechanism of the language with the first schedule, then the rest.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from attnspec.codegen.triton.schedule import KINDS, Candidates, Schedule, candidates
from attnspec.relation.sizes import Sizes, resized
from attnspec.runtime.attention import compile
from attnspec.runtime.bench.setup import Setup, examples, inputs
from attnspec.runtime.bench.verify import results_of, verify
from attnspec.runtime.core.device import device_of
from attnspec.runtime.triton.module import does_not_fit
from attnspec.spec.spec import Spec

DIMS = (64, 80, 96, 128, 256)
DTYPES = ("bfloat16", "float16", "float32")
LENGTH = 389
"""Odd, and several tiles long."""
Params = tuple[tuple[str, object], ...]


@dataclass(frozen=True)
class Case:
    """A pattern with the sizes of a call, chosen so that one mechanism of the compiler is at work."""

    name: str
    spec: str
    params: Params = ()
    heads: int = 4
    kv_heads: int = 2
    batch: int = 1
    n_q: int | None = None
    longer: int = 1
    """How many times as long as others its keys are."""


def _case(name: str, spec: str = "", /, *, sizes: Mapping[str, int] | None = None, **params: object) -> Case:
    return Case(name, spec or name, tuple(params.items()), **(sizes or {}))


BASE = _case("window", width=100, sizes={"batch": 2})
CASES = (
    BASE,
    _case("causal", sizes={"n_q": 77}),
    _case("longformer: passes", "longformer", width=100, globals=5),
    _case("dilated: residues", "dilated", width=48, rate=3),
    _case("longnet: mixture, combs", "longnet", branches=((128, 1), (256, 2), (512, 4))),
    _case("strided: passes and residues", "sparse_strided", stride=12),
    _case("per head: classes", "longformer_dilated", width=32, dilations=(1, 2, 3, 4)),
    _case("packed: inputs", "packed"),
    _case("padded: an input as a bound", "padded", sizes={"batch": 2}),
    _case("block_topk: tables", "block_topk", block=16),
    _case("alibi: scores", "alibi"),
    _case("t5_bias: gradients of inputs", "t5_bias", buckets=8, furthest=32),
    _case("gpt_oss: sinks, yarn", "gpt_oss", width=100),
    _case("reformer: a computed order", "reformer", buckets=8, rounds=2, chunk=32, sizes={"kv_heads": 4}),
    _case("memory: axes", "memory", slots=7),
    _case("neighborhood_2d: grids", "neighborhood_2d", width=16, radius=2),
    _case("decode", "causal", sizes={"n_q": 1, "longer": 6}),
    _case("decode in a window", "window", width=300, sizes={"n_q": 3, "kv_heads": 1, "longer": 3}),
)


@dataclass(frozen=True)
class Check:
    """A case with a head size, an element type and the number of a schedule."""

    case: Case
    dim: int
    dtype: str
    number: int
    length: int = LENGTH
    device: str = "cuda"

    @property
    def schedule(self) -> Schedule:
        """The schedule: of each kind of kernel the candidate of its number, or the last."""
        found = _candidates(self.case, self.dim, self.dtype)
        return Schedule(*(found[kind][min(self.number, len(found[kind]) - 1)] for kind in KINDS))

    def __str__(self) -> str:
        s = self.schedule
        shapes = ", ".join(
            f"{s.of(kind).tile.rows}x{s.of(kind).tile.columns}/{s.of(kind).warps}/{s.of(kind).stages}" for kind in KINDS
        )
        return f"{self.case.name}, dim {self.dim}, {self.dtype}, {shapes}"


@dataclass(frozen=True)
class Found:
    """What came of a check: ``"right"``, ``"wrong"``, ``"failed"`` (an error), or ``"does not fit"`` the device."""

    state: str
    message: str = ""

    @property
    def fine(self) -> bool:
        """Whether nothing is wrong."""
        return self.state in ("right", "does not fit")


def _candidates(case: Case, dim: int, dtype: str) -> Candidates:
    n_q = LENGTH if case.n_q is None else case.n_q
    # No case of few queries tells heads apart or has many: those that share their keys share a tile.
    return candidates(dim, getattr(torch, dtype).itemsize, n_q, case.heads // case.kv_heads)


def checks(device: str = "cuda") -> tuple[list[Check], list[Check]]:
    """Those that must be made, and all others in an order that mixes them."""

    def numbers(case: Case, dim: int, dtype: str) -> range:
        return range(max(map(len, _candidates(case, dim, dtype).values())))

    every = [
        Check(case, dim, dtype, number, device=device)
        for case in CASES
        for dim in DIMS
        for dtype in DTYPES
        for number in numbers(case, dim, dtype)
    ]
    first = [c for c in every if c.case is BASE or (c.number == 0 and c.dim in (64, 128))]
    first.sort(key=lambda c: c.case is not BASE)
    rest = [c for c in every if c not in set(first)]
    random.Random(0).shuffle(rest)
    return first, rest


def run(check: Check) -> Found:
    """Make a check in this process."""
    try:
        return _compare(check)
    except does_not_fit() as error:
        return Found("does not fit", str(error).splitlines()[0])
    except Exception as error:
        return Found("failed", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")


def _compare(check: Check) -> Found:
    case = check.case
    attend = compile(case.spec, params=dict(case.params), target="triton")
    sizes = _sizes(attend.spec, case, check.length * case.longer)
    device = device_of(check.device)
    if device.type != "cpu":
        torch.set_num_threads(1)  # many processes do this at a time
    setup = Setup(sizes, check.dim, getattr(torch, check.dtype), True, 1, device)
    q, k, v, dout = inputs(setup)
    dout[1:] = 0  # batch entry 0 is looked at, and gradients of inputs are sums over all
    given = examples(attend.spec, setup)
    with using(check.schedule):
        results = results_of(attend, (q, k, v, dout), given)
    verdict = verify(attend.spec, sizes, (q, k, v, dout), results, given, tuple(range(sizes.kv_heads)))
    if any(not bool(torch.isfinite(t).all()) for t in results.values()):
        return Found("wrong", "a result is not finite")
    if verdict.agrees:
        return Found("right")
    worst = ", ".join(f"{name} {error:.1e}" for name, error in verdict.errors.items() if error > verdict.tolerance)
    return Found("wrong", f"{worst} (tolerance {verdict.tolerance:.0e})")


def _sizes(spec: Spec, case: Case, n: int) -> Sizes:
    found = Sizes(n, n if case.n_q is None else case.n_q, case.heads, case.kv_heads, case.batch, spec.align == "end")
    return resized(spec, found, n) if spec.axes else found


@contextmanager
def using(schedule: Schedule) -> Iterator[None]:
    """Triton kernels are called with a schedule, whatever was measured: for all threads, as backward has its own."""
    from attnspec.runtime.triton import tune as triton_tune

    before = triton_tune.schedule
    triton_tune.schedule = lambda *_: schedule
    try:
        yield
    finally:
        triton_tune.schedule = before
