"""Times of schedules against times worked out by hand: what arrives for a step travels beside the one before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attnspec.codegen.ranks.figures import figures
from attnspec.codegen.ranks.loads import KEYS, QUERIES, RESULTS, Loads
from attnspec.codegen.ranks.machines import MACHINES, Machine
from attnspec.codegen.ranks.phases import Layer, keys_held, phases
from attnspec.codegen.ranks.times import operations, times
from attnspec.codegen.ranks.usual import usual
from attnspec.relation.sizes import Sizes

LAYER = Layer(dim=8, dim_v=8, dtype="float32", itemsize=4)
PAIR, KEY = 2 * 16, 4 * 16
"""Operations of a pair, bytes of a key and its value."""
MACHINE = Machine("m", {"float32": float(PAIR)}, 64.0, 32.0, 2, 0.5, 0.25, 0.0, True, "made up: a pair takes a second")


def loads(pairs: list[list[int]], messages: list[tuple[int, int, int, int, int]]) -> Loads:
    """From pairs by step and rank, and messages (step, source, target, kind, rows)."""
    columns = np.array(messages, dtype=np.int64).reshape(-1, 5).T
    work = np.array(pairs, dtype=np.int64)
    return Loads(work, (work > 0).astype(np.int64), *columns)


def test_messages_travel_beside_the_step_before() -> None:
    hidden = times(loads([[5, 5], [3, 3]], [(1, 0, 1, KEYS, 2), (1, 1, 0, KEYS, 2)]), LAYER, MACHINE)
    assert hidden.whole.tolist() == [8.5, 8.5]  # two calls; 2 keys in 2.5 seconds show nowhere
    assert hidden.compute.tolist() == [8.5, 8.5]
    assert hidden.messages.tolist() == [2.5, 2.5]
    shown = times(loads([[5, 5], [3, 3]], [(1, 0, 1, KEYS, 10)]), LAYER, MACHINE)
    assert shown.whole.tolist() == [10.5 + 3.25, 10.5 + 3.25]  # the sender's buffers are its own only then


def test_the_slower_link_and_the_later_rank_are_waited_for() -> None:
    work = [[1, 1, 9, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    near = times(loads(work, [(2, 0, 1, KEYS, 4)]), LAYER, MACHINE)
    assert near.whole.tolist() == [1.25 + 4.5 + 1.25] * 2 + [9.25 + 2.5, 3.75]
    far = times(loads(work, [(2, 2, 0, KEYS, 4)]), LAYER, MACHINE)
    assert far.whole[0] == 9.25 + 8.5 + 1.25  # posted when rank 2 is through with its first step


def test_results_return_after_their_step() -> None:
    found = loads([[1, 1], [0, 7]], [(1, 0, 1, QUERIES, 4), (1, 1, 0, RESULTS, 4)])
    moved = phases(found, LAYER)
    assert (moved.phases, moved.phase.tolist(), moved.source.tolist()) == (3, [0, 2], [0, 1])
    assert moved.nbytes.tolist() == [4 * 4 * 8, 4 * 4 * 9]
    assert times(found, LAYER, MACHINE).whole[0] == (4 * 4 * 8 / 64 + 0.5) + 7.25 + (4 * 4 * 9 / 64 + 0.5)


def test_backward_returns_gradients() -> None:
    found = loads([[1, 1], [1, 1]], [(1, 0, 1, KEYS, 2), (1, 1, 0, QUERIES, 3), (1, 0, 1, RESULTS, 3)])
    layer = LAYER._replace(batch=5)
    there, back = phases(found, layer), phases(found, layer, backward=True)
    assert there.received.tolist() == [5 * 3 * 32, 5 * (2 * 64 + 3 * 36)]
    # queries, output gradients and two numbers of each row go; keys go, their gradients return, so do those of queries
    assert back.received.tolist() == [5 * (3 * (64 + 8) + 2 * 64), 5 * (2 * 64 + 3 * 32)]
    assert back.messages.tolist() == [2, 2]
    assert sum(back.sent.tolist()) == sum(back.received.tolist())
    assert operations(LAYER, True) == 2 * 5 * 8


def test_the_price_of_a_step_is_in_it() -> None:
    found = loads([[4, 4], [1, 1]], [(1, 0, 1, KEYS, 1)])
    slow = replace(MACHINE, step=2.0)
    assert times(found, LAYER, slow).whole.tolist() == [4.25 + 2.0] * 2  # beside the device: hidden but in the last
    assert times(found, LAYER, replace(slow, beside=False)).whole.tolist() == [4.25 + 2 + 1.25 + 2] * 2


def test_figures_of_a_schedule() -> None:
    found = loads([[4, 4], [0, 2], [0, 2]], [(1, 0, 1, KEYS, 6), (2, 0, 1, KEYS, 4)])
    assert keys_held(found).tolist() == [0, 10]
    f = figures(found, Sizes(32, 32, 4, 2), 16, LAYER, MACHINE)
    assert (f.pairs, f.balance, f.received, f.messages, f.held) == (12, 8 / 6, 10 * KEY, 2, 16 + 5)
    empty = figures(loads([[0, 0]], []), Sizes(32, 32, 4, 2), 16, LAYER, MACHINE)
    assert (empty.balance, empty.received, empty.held) == (1.0, 0, 16)


def test_usual_ways_send_all_keys_and_are_bounded_by_heads() -> None:
    sizes, h100 = Sizes(1 << 20, 1 << 20, 32, 8), MACHINES["h100"]
    layer = Layer(128, 128, "bfloat16", 2)
    total = 32 * 4096 * (1 << 20)
    ring, gathered, ulysses = usual(sizes, 64, total // 64, total, layer, h100)
    assert ring.received == gathered.received == (1 << 20) * 8 * 256 * 2 * 63 // 64
    assert 0.085 < gathered.forward < 0.1
    assert 0.09 < ring.forward < 0.1
    assert ulysses.why == "at most 8 ranks"
    assert usual(sizes, 3, total, total, layer, h100)[2].why == "not 8 key heads to 3 ranks"
    by_heads = usual(sizes, 8, total // 8, total, layer, h100)[2]
    assert 0 < by_heads.received < gathered.received
    assert all(one.received == 0 for one in usual(sizes, 1, total, total, layer, h100))


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_machines_say_where_their_prices_come_from(name: str) -> None:
    machine = MACHINES[name]
    assert machine.name == name
    assert ("not measured" in machine.origin) == (name != "cpu-gloo")
    assert machine.far <= machine.near
    assert machine.step > 0
