"""Which shards, and which places of work, a plan for ranks has: candidates by simulated time, and the reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from math import gcd

from attnspec.codegen.ranks.figures import Figures, figures
from attnspec.codegen.ranks.helpers import helped
from attnspec.codegen.ranks.machines import DEFAULT, MACHINES, Machine
from attnspec.codegen.ranks.plan import FAST, Candidate, RankPlan
from attnspec.codegen.ranks.planned import Schedule, schedule
from attnspec.codegen.ranks.refused import HardToSplit, require_splittable
from attnspec.codegen.ranks.shards import block
from attnspec.codegen.ranks.usual import usual
from attnspec.relation import effort
from attnspec.relation.relation import Relation
from attnspec.relation.sizes import Sizes
from attnspec.spec.contents import walk
from attnspec.spec.expr import Int, Mod
from attnspec.spec.spec import Spec

HELPER = "helper"
"""Contiguous shards of which ranks with few keys before them help the others."""
UNBALANCED = 1.05
"""Greedy shards are weighed where all others have a rank with more than so many times the mean work."""

MOST_RESIDUES = 64
"""Ranks up to which residue shards are weighed: with more, few strides are multiples of their number."""

MOST_HELPED = 256
"""Ranks up to which helpers are weighed: with more there is much to plan, and they send more than zigzag does."""


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

    ``shard`` is a kind of shards (contiguous ones have helpers where these balance), or ``"auto"``: those with which
    forward and backward take least time on a ``machine``; one that is hardly slower and comes earlier is preferred.
    Candidates that take the solver too long are left out, unless all do. Raises CannotSplit where there is no plan.
    """
    require_splittable(relation, sizes)
    weighed: dict[str, tuple[Schedule, Figures]] = {}
    skipped: dict[str, str] = {}

    def weigh(name: str, patient: bool = shard != "auto") -> None:
        kind, helpers = ("contiguous", True) if name == HELPER else (name, shard != "auto")
        try:
            with nullcontext() if patient else effort.stage():
                made = schedule(relation, sizes, ranks, kind, chunks, dim, dim_v, itemsize, helpers)
        except HardToSplit as error:
            if patient:
                raise
            skipped[name] = error.why
        else:
            weighed[name] = made, figures(made, machine, dtype)

    weigh("contiguous" if shard == "auto" else shard)
    if shard == "auto" and ranks > 1:
        first = weighed.get("contiguous")
        if first is None:
            skipped["zigzag"] = "contiguous shards are too hard to cut already"
        elif first[1].balance <= FAST:
            skipped["zigzag"] = "work is equal already"
        else:
            weigh("zigzag")
            if ranks > MOST_HELPED:
                skipped[HELPER] = f"weighed for up to {MOST_HELPED} ranks"
            elif _helps(first[0]):
                weigh(HELPER)
        for name in _shaped(relation.spec, sizes.n, ranks):
            if name == "residue" and ranks > MOST_RESIDUES:
                skipped[name] = f"weighed for up to {MOST_RESIDUES} ranks"
            else:
                weigh(name)
        if not weighed:
            del skipped["contiguous"]
            weigh("contiguous", patient=True)
        if first is not None and min(found.balance for _, found in weighed.values()) > UNBALANCED:
            weigh("greedy")
    candidates = tuple(Candidate(name, found) for name, (_, found) in weighed.items())
    chosen = 0
    for number, one in enumerate(candidates):
        if one.seconds * FAST < candidates[chosen].seconds:
            chosen = number
    best = min((found for _, found in weighed.values()), key=lambda f: f.largest)
    made = weighed[candidates[chosen].name][0]
    others = usual(sizes, ranks, best.largest, best.pairs // max(1, sizes.batch), made.widths, machine, dtype)
    reason = (
        _reason(candidates, chosen, ranks, "contiguous" in skipped) if shard == "auto" else f"{shard}: as asked for"
    )
    unweighed = tuple(Candidate(name, why=why) for name, why in skipped.items())
    return RankPlan(made, machine, dtype, candidates + unweighed, others, chosen, reason)


def _helps(plain: Schedule) -> bool:
    """Whether helpers balance a schedule over contiguous shards that has none."""
    return any(helped(one.parts, plain.shards, one.cut.shapes) is not None for one in plain.placed)


def _shaped(spec: Spec, n: int, ranks: int) -> Iterator[str]:
    """The shards that only patterns of a shape ask for: by residues, or in blocks."""
    nodes = [node for branch in spec.branches for part in (*branch.attend, *branch.within) for node in walk(part.pred)]
    moduli = [node.right.value for node in nodes if isinstance(node, Mod) and isinstance(node.right, Int)]
    if any(gcd(modulus, ranks) > 1 for modulus in moduli):
        yield "residue"
    rows = -(-n // ranks)
    if rows % block(spec, rows):
        yield "grid"


def _figures(one: Candidate) -> Figures:
    assert one.figures is not None
    return one.figures


def _reason(candidates: tuple[Candidate, ...], chosen: int, ranks: int, hard: bool) -> str:
    """Why one of them is chosen."""
    best, rest = candidates[chosen], [one for number, one in enumerate(candidates) if number != chosen]
    if ranks == 1:
        return f"{best.name}: there is one rank"
    if hard and not rest:
        return f"{best.name}: others are too hard to cut"
    if not rest:
        return f"{best.name}: work is equal, and other shards would send more"
    if not any(_figures(one).messages for one in candidates):
        return f"{best.name}: nothing is sent, whatever the shards"
    slower = [one for one in rest if one.seconds > FAST * best.seconds]
    if not slower:
        in_order = best.name == "contiguous"
        return f"{best.name}: no other is faster, and positions stay in order" if in_order else f"{best.name}: fastest"
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
