"""The main job over processes: a call over ranks, forward and backward, against the same call on one device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from attnspec.runtime.attention import Attention
from attnspec.runtime.bench.ranks.transport import Counting
from attnspec.runtime.bench.setup import Setup, examples, inputs
from attnspec.runtime.bench.verify import TOLERANCE
from attnspec.runtime.core.program import Program
from attnspec.runtime.distributed.distribute import Distributed, distribute
from attnspec.runtime.distributed.processes import of_group


@dataclass(frozen=True)
class OfRank:
    """What one rank has to say: bytes sent forward and backward, and seconds.

    ``planned`` are the bytes that the plan says of a call with these inputs. Rank 0 knows the largest errors too,
    relative to the largest value, the plan as text, and the seconds of one device.
    """

    sent: tuple[int, int]
    planned: tuple[int, int]
    forward: float
    both: float
    errors: Mapping[str, float]
    plan: str
    alone: tuple[float, float]


@dataclass(frozen=True)
class Job:
    """What came of a job."""

    ranks: tuple[OfRank, ...]
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether results and gradients are those of one device."""
        return all(error <= self.tolerance for error in self.ranks[0].errors.values())

    @property
    def as_planned(self) -> bool:
        """Whether each rank sent the bytes that the plan says, forward and backward."""
        return all(one.sent == one.planned for one in self.ranks)


def job_of(found: list[OfRank], setup: Setup) -> Job:
    """What came of it, from what each rank returned."""
    return Job(tuple(found), TOLERANCE[setup.dtype])


def job(program: Program, setup: Setup, shard: str) -> OfRank:
    """On each rank: run it with random vectors, compare with one device on rank 0, and time it."""
    attend, group = Attention(program, "auto"), dist.group.WORLD
    assert group is not None
    transport, s = Counting(of_group(group)), setup.sizes
    far = distribute(
        attend,
        transport,
        n=s.n,
        heads=s.heads,
        kv_heads=s.kv_heads,
        dim=setup.dim,
        dtype=setup.dtype,
        batch=s.batch,
        shard=shard,
    )
    given = examples(attend.spec, setup)
    whole = inputs(setup)
    local = tuple(far.shard(t, 2) for t in whole)
    transport.sent = 0
    weights = attend.spec.weights
    with_lse = not attend._facts.shared and (
        not weights.linear or (weights.divides_by_total and weights.never_negative)
    )
    found, before = _results(far, local, given, with_lse), transport.sent
    # The checks of the first call are messages too: what a call sends is counted by itself.
    with torch.no_grad():
        far(*local[:3], inputs=given)
    forward = transport.sent - before
    transport.sent = 0
    _results(far, local, given, with_lse, learn=False)  # sums over ranks of gradients of inputs are no part of a plan
    backward = transport.sent - forward
    errors, alone = _compared(far, attend, whole, given, found, with_lse)
    del whole, found
    times = [_median(lambda: _forward(far, local, given)), _median(lambda: _results(far, local, given, with_lse))]
    return OfRank(
        sent=(forward, backward),
        planned=far.sent(given),
        forward=times[0],
        both=times[1],
        errors=errors,
        plan=str(far.plan) if far.rank == 0 else "",
        alone=alone,
    )


def _forward(call: Callable[..., Any], tensors: tuple[Tensor, ...], given: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        call(*tensors[:3], inputs=given)


def _results(
    call: Callable[..., Any],
    tensors: tuple[Tensor, ...],
    given: Mapping[str, Tensor],
    with_lse: bool,
    learn: bool = True,
) -> dict[str, Tensor]:
    """Output, log-sum-exp, and the gradients of both with respect to q, k, v and, if they learn, float inputs."""
    q, k, v, dout = tensors
    learned = {name: t.clone().requires_grad_() for name, t in given.items() if learn and t.is_floating_point()}
    leaves = [t.detach().requires_grad_() for t in (q, k, v)]
    results = call(*leaves, return_lse=with_lse, inputs={**given, **learned})
    out, lse = results if with_lse else (results, None)
    total = (out.float() * dout.float()).sum()
    if lse is not None:
        total = total + torch.where(lse.isfinite(), lse * 0.5, 0.0).sum()
    gradients = torch.autograd.grad(total, [*leaves, *learned.values()], allow_unused=True)
    named = zip(("dq", "dk", "dv", *(f"d{name}" for name in learned)), gradients, strict=True)
    found = {"out": out.detach(), **({} if lse is None else {"lse": lse.detach()})}
    return {**found, **{name: t for name, t in named if t is not None}}


def _compared(
    far: Distributed,
    attend: Attention,
    whole: tuple[Tensor, ...],
    given: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    with_lse: bool,
) -> tuple[dict[str, float], tuple[float, float]]:
    """The largest errors against one device, and its seconds forward and for both passes: known on rank 0."""
    rows = ("out", "lse", "dq", "dk", "dv")
    got = {name: far.gather(t, 2) if name in rows else t for name, t in found.items()}
    errors, alone = {}, (0.0, 0.0)
    if far.rank == 0:
        want = _results(attend, whole, given, with_lse)
        errors = {name: _error(t, want[name]) for name, t in got.items()}
        alone = (
            _time(lambda: _forward(attend, whole, given)),
            _time(lambda: _results(attend, whole, given, with_lse)),
        )
    dist.barrier()
    return errors, alone


def _error(got: Tensor, want: Tensor) -> float:
    """The largest difference by the largest magnitude; infinite where one is finite and the other is not."""
    got, want = got.double(), want.double()
    finite = want.isfinite()
    if not bool((got.isfinite() == finite).all()):
        return float("inf")
    got, want = got[finite], want[finite]
    if not want.numel():
        return 0.0
    return float((got - want).abs().max() / want.abs().max().clamp(min=1e-30))


def _median(call: Callable[[], object]) -> float:
    """The median seconds of three calls that all ranks make together."""
    spent = []
    for _ in range(3):
        dist.barrier()
        spent.append(_time(call))
    return statistics.median(spent)


def _time(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
