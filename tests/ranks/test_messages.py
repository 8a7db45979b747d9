"""What is sent: what items need and no more, each position once, and bytes to the last."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings

from attnspec.codegen.ranks.patterns import patterns
from attnspec.codegen.ranks.planned import Schedule
from attnspec.codegen.ranks.runs import positions
from attnspec.codegen.ranks.schedule import Message, Slice
from tests.ranks.cases import Call, calls

Held = dict[tuple[int, int, int, str], set[tuple[int, int]]]
"""By step, source, target and kind: (head, position) of queries, (key head, position) of keys."""


def all_messages(plan: Schedule, backward: bool = False) -> list[Message]:
    """Those of all ranks, each from both of its ends."""
    ends = defaultdict[Message, list[int]](list)
    for rank in range(plan.ranks):
        for message in plan.messages(rank, backward):
            ends[message].append(rank)
    for message, ranks in ends.items():
        assert sorted(ranks) == sorted([message.source, message.target])
    names = [(m.step, m.source, m.target, m.kind, m.of) for m in ends]
    assert len(set(names)) == len(names)
    return list(ends)


def carried(plan: Schedule, slices: tuple[Slice, ...], keys: bool) -> list[tuple[int, int, int]]:
    """The branch, head and position of each vector."""
    shared = plan.sizes.heads // plan.sizes.kv_heads
    found = []
    for one in slices:
        low, high = one.heads or (0, plan.sizes.heads)
        heads = range(low // shared, high // shared) if keys else range(low, high)
        found += [(one.branch, h, at) for h in heads for at in positions(one.runs).tolist()]
    assert len(set(found)) == len(found)
    return found


def require_exact(plan: Schedule) -> None:
    """Forward messages hold exactly what the pattern's pairs ask for, items' places being what they are."""
    relation, sizes = plan.relation, plan.sizes
    shared = sizes.heads // sizes.kv_heads
    sets = {(one.branch, one.heads): one.pairs for one in patterns(relation, sizes).items}
    want = defaultdict[tuple[int, int, int, str], set[tuple[int, int, int]]](set)
    for item in [item for rank in range(plan.ranks) for item in plan.items(rank)]:
        if item.asker == item.keeper:
            continue
        low, high = item.heads or (0, sizes.heads)
        queries, keys = positions([item.queries]), positions([item.keys])
        mask = relation.cells(sizes, low, 0, sets[item.branch, item.heads])[np.ix_(queries, keys)]
        if item.place == item.asker:
            found = {(0, h // shared, int(k)) for h in range(low, high) for k in keys[mask.any(0)]}
            want[item.step, item.keeper, item.place, "keys"] |= found
        else:
            rows = [(h, int(q)) for h in range(low, high) for q in queries[mask.any(1)]]
            want[item.step, item.asker, item.place, "queries"] |= {(0, *row) for row in rows}
            want[item.step, item.place, item.asker, "results"] |= {(item.branch, *row) for row in rows}
    made = {
        (m.step, m.source, m.target, m.kind): set(carried(plan, m.slices, m.kind == "keys")) for m in all_messages(plan)
    }
    groups = plan.patterns.groups
    if len(groups) == 1 or shared == 1:
        assert made == want
    else:  # query heads that share a key head see unlike keys, and groups of key heads get what any of them needs
        assert made.keys() == want.keys()
        assert all(made[name] >= want[name] for name in want)


def require_bytes(plan: Schedule) -> None:
    for backward in (False, True):
        sent, received = np.zeros((2, plan.ranks), dtype=np.int64)
        for message in all_messages(plan, backward):
            number = weight(plan, message, backward)
            sent[message.source] += number
            received[message.target] += number
        assert (plan.sent(backward) == sent).all()
        assert (plan.received(backward) == received).all()


def weight(plan: Schedule, message: Message, backward: bool) -> int:
    """Bytes of a message; keys and values are in the type of the model, what is summed in float32."""
    widths, of_keys = plan.widths, "keys" in (message.kind, message.of)
    both, size = widths.dim + widths.dim_v, widths.itemsize
    number = len(carried(plan, message.slices, of_keys))
    if message.kind == "keys":
        return number * both * size
    if message.kind == "queries":
        apart = len(carried(plan, message.branches, False))
        assert (apart > 0) == backward
        return number * ((both * size + 4) if backward else widths.dim * size) + apart * 4
    if backward:
        return number * 4 * (both if of_keys else widths.dim)
    return number * 4 * (widths.dim_v + 1)


@settings(max_examples=12)
@given(calls(longest=40))
def test_what_is_sent(call: Call) -> None:
    plan = call.plan()
    require_exact(plan)
    require_bytes(plan)


@pytest.mark.slow
@settings(max_examples=100)
@given(calls())
def test_what_is_sent_of_more(call: Call) -> None:
    test_what_is_sent.hypothesis.inner_test(call)  # type: ignore[attr-defined]
