"""Which shards, and which places of work, a plan for ranks has: candidates by simulated time, and the reason."""

from __future__ import annotations

from collections.abc import Iterator

from attnspec.codegen.ranks.figures import Figures, figures
from attnspec.codegen.ranks.machines import DEFAULT, MACHINES, Machine
from attnspec.codegen.ranks.plan import FAST, Candidate, RankPlan
from attnspec.codegen.ranks.planned import Schedule, schedule
from attnspec.codegen.ranks.refused import require_splittable
from attnspec.codegen.ranks.usual import usual
from attnspec.relation.relation import Relation
from attnspec.relation.sizes import Sizes

UNBALANCED = 1.05
"""Greedy shards are weighed where all others have a rank with more than so many times the mean work."""


def plan_ranks(
    relation: Relation,
    sizes: Sizes,
    ranks: int,
    *,
    shard: str = "auto",
    chunks: int | None = None,
    dim: int = 64,
    dim_v: int | None = None,
    itemsize: int = 4,
    dtype: str = "float32",
    machine: Machine = MACHINES[DEFAULT],
) -> RankPlan:
    """The plan by which ranks share one sequence.

    ``shard`` is a kind of shards, or ``"auto"``: those with which forward and backward take least time on a
    ``machine``; one that is hardly slower and comes earlier is preferred. Raises CannotSplit where there is no plan.
    """
    require_splittable(relation, sizes)
    weighed: list[tuple[Candidate, Schedule]] = []

    def weigh(kind: str) -> None:
        made = schedule(relation, sizes, ranks, kind, chunks, dim, dim_v, itemsize)
        weighed.append((Candidate(kind, figures(made, machine, dtype)), made))

    for kind in _kinds(sizes, ranks) if shard == "auto" else (shard,):
        weigh(kind)
    if shard == "auto" and min(_figures(one).balance for one, _ in weighed) > UNBALANCED:
        weigh("greedy")
    chosen = 0
    for number, (one, _) in enumerate(weighed):
        if one.seconds * FAST < weighed[chosen][0].seconds:
            chosen = number
    candidates = tuple(one for one, _ in weighed)
    best = min((_figures(one) for one in candidates), key=lambda f: f.largest)
    made = weighed[chosen][1]
    others = usual(sizes, ranks, best.largest, best.pairs // sizes.batch, made.widths, machine, dtype)
    reason = _reason(candidates, chosen) if shard == "auto" else "as asked for"
    return RankPlan(made, machine, dtype, candidates, others, chosen, reason)


def _kinds(sizes: Sizes, ranks: int) -> Iterator[str]:
    yield "contiguous"
    if ranks > 1 and 2 * ranks <= sizes.n:
        yield "zigzag"


def _figures(one: Candidate) -> Figures:
    assert one.figures is not None
    return one.figures


def _reason(candidates: tuple[Candidate, ...], chosen: int) -> str:
    """Why one of them is chosen."""
    best, rest = candidates[chosen], [one for number, one in enumerate(candidates) if number != chosen]
    if not rest:
        return f"{best.name}: there is nothing else to weigh"
    if not any(_figures(one).messages for one in candidates):
        return f"{best.name}: nothing is sent, whatever the shards"
    slower = [one for one in rest if one.seconds > FAST * best.seconds]
    if not slower:
        return (
            f"{best.name}: no other is faster, and positions stay in order" if chosen == 0 else f"{best.name}: fastest"
        )
    second = min(slower, key=lambda one: one.seconds)
    return f"{best.name}: {second.seconds / best.seconds:.3g}x as fast as {second.name}, {_fault(second, best)}"


def _fault(slow: Candidate, best: Candidate) -> str:
    """What makes a candidate slow."""
    mine, its = _figures(best), _figures(slow)
    if its.balance > FAST * mine.balance:
        return f"where a rank has {its.balance:.3g} times the mean work"
    if its.received > FAST * mine.received:
        if not mine.received:
            return "which has to send"
        return f"which receives {its.received / mine.received:.3g} times as many bytes"
    return "whose messages show more"
