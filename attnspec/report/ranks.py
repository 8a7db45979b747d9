"""What ``attnspec inspect --ranks`` says: a plan for some number of ranks, or how plans scale with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from attnspec.codegen.ranks.choose import plan_ranks
from attnspec.codegen.ranks.machines import Machine
from attnspec.codegen.ranks.plan import RankPlan
from attnspec.codegen.ranks.refused import CannotSplit, require_splittable
from attnspec.codegen.ranks.schedule import Item, Message
from attnspec.relation.lower import lower
from attnspec.relation.sizes import Sizes
from attnspec.report.insight import ITEMSIZE
from attnspec.report.ranks_states import StatePlan, state_plan
from attnspec.spec.spec import Spec

LISTED = 20_000
"""Items, and messages, that ``--json`` lists at most; where there are more it says so in their place."""
_RANKS = 256
"""Ranks of which it lists any."""


Planned = RankPlan | StatePlan


def planned(
    pattern: Spec, sizes: Sizes, ranks: Sequence[int], dim: int, dtype: str, machine: Machine
) -> tuple[Planned, ...]:
    """A plan for each number of ranks. Raises CannotSplit where there is none, SpecError where there is no relation."""
    relation = lower(pattern, sizes.heads, sizes.kv_heads, sizes.batch)
    require_splittable(relation, sizes)
    size = ITEMSIZE[dtype]
    if pattern.composed and any(branch.weights.linear for branch in pattern.alone):
        raise CannotSplit(
            f"{pattern.name}: some of its branches send states, the others keys, which is not priced together. "
            "attnspec.distribute computes it all the same, and print(far.plan) says what each branch sends; here, look "
            "at each branch as a pattern of its own"
        )
    if pattern.weights.linear and not pattern.composed:
        return tuple(state_plan(relation, sizes, number, dim, size, dtype, machine) for number in ranks)
    return tuple(
        plan_ranks(relation, sizes, number, dim=dim, itemsize=size, dtype=dtype, machine=machine) for number in ranks
    )


def text(plans: Sequence[Planned]) -> str:
    """The plan; of several a table."""
    if len(plans) == 1:
        return str(plans[0])
    title: tuple[str, ...] = ("ranks", "shards", "receives", "in", "forward", "backward")
    note = ""
    if isinstance(plans[0], RankPlan):
        title = ("ranks", "shards", "work", "receives", "forward", "backward", "of one rank", "best of usual")
        note = "work: largest over mean; of usual: forward; "
    rows = [title, *(plan.row() for plan in plans)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    machine = plans[0].machine
    return "\n".join([*lines, "", f"{note}{machine}: {machine.origin}"])


def to_dict(plans: Sequence[Planned]) -> dict[str, Any] | list[dict[str, Any]]:
    """The plan as plain data, with its items and messages; of several a list, without them."""
    if len(plans) > 1:
        return [plan.to_dict() for plan in plans]
    return _whole(plans[0]) if isinstance(plans[0], RankPlan) else plans[0].to_dict()


def _whole(plan: RankPlan) -> dict[str, Any]:
    schedule, ranks = plan.schedule, range(plan.ranks)
    held = [[list(run) for run in runs] for runs in schedule.shards.held]
    found = {**plan.to_dict(), "held": held, "items": None, "messages": None, "left_out": ""}
    if plan.ranks > _RANKS:
        return {
            **found,
            "left_out": f"items and messages are listed for up to {_RANKS} ranks, and there are {plan.ranks:,}",
        }
    items = list(islice((one for rank in ranks for one in schedule.items(rank)), LISTED + 1))
    messages = list(islice((m for rank in ranks for m in schedule.messages(rank) if m.source == rank), LISTED + 1))
    for name, some in (("items", items), ("messages", messages)):
        if len(some) > LISTED:
            return {**found, "left_out": f"there are more than {LISTED:,} {name}: ask for fewer ranks"}
    return {**found, "items": list(map(_item, items)), "messages": list(map(_message, messages))}


def _item(item: Item) -> dict[str, Any]:
    return {**item._asdict(), "queries": list(item.queries), "keys": list(item.keys)}


def _message(message: Message) -> dict[str, Any]:
    slices: Iterable[dict[str, Any]] = (
        {"heads": one.heads, "branch": one.branch, "runs": [list(run) for run in one.runs]} for one in message.slices
    )
    names = ("step", "source", "target", "kind", "of")
    return {**{name: getattr(message, name) for name in names}, "slices": list(slices)}
