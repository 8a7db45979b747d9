"""Times of schedules against times worked out by hand: what arrives for a step travels beside the one before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attnspec.codegen.ranks.exchange import Exchange
from attnspec.codegen.ranks.loads import Loads
from attnspec.codegen.ranks.machines import MACHINES, Machine
from attnspec.codegen.ranks.phases import keys_held, messages, phases
from attnspec.codegen.ranks.times import operations, times
from attnspec.codegen.ranks.traffic import Widths
from attnspec.codegen.ranks.usual import Usual, usual
from attnspec.relation.sizes import Sizes

WIDTHS = Widths(dim=8, dim_v=8, itemsize=4)
PAIR, KEY = 2 * 16, 4 * 16
"""Operations of a pair, bytes of a key and its value."""
MACHINE = Machine("m", {"float32": float(PAIR)}, 64.0, 32.0, 2, 0.5, 0.25, 0.0, True, "made up: a pair takes a second")


def loads(pairs: list[list[int]]) -> Loads:
    """From pairs by step and rank; each is a call."""
    work = np.array(pairs, dtype=np.int64)
    return Loads(work, (work > 0).astype(np.int64))


def sends(*messages: tuple[int, int, int, int, int, int], widths: Widths = WIDTHS) -> Exchange:
    """From messages (step, source, target, keys, rows, results)."""
    step, source, target, keys, rows, results = np.array(messages, dtype=np.int64).reshape(-1, 6).T
    there, gradients = (
        keys * widths.key + rows * widths.query,
        keys * widths.key_gradient + rows * widths.query_gradient,
    )
    backward = keys * widths.key + rows * widths.query_back + results * widths.result_back
    return Exchange(source, target, step, keys, rows, results, there, results * widths.result, backward, gradients)


def seconds(pairs: list[list[int]], traffic: Exchange, machine: Machine = MACHINE) -> list[float]:
    found: list[float] = times(loads(pairs), traffic, WIDTHS, machine, "float32").whole.tolist()
    return found


def test_messages_travel_beside_the_step_before() -> None:
    hidden = times(loads([[5, 5], [3, 3]]), sends((1, 0, 1, 2, 0, 0), (1, 1, 0, 2, 0, 0)), WIDTHS, MACHINE, "float32")
    assert hidden.whole.tolist() == hidden.compute.tolist() == [8.5, 8.5]  # 2 keys in 2.5 seconds show nowhere
    assert hidden.messages.tolist() == [2.5, 2.5]
    assert seconds([[5, 5], [3, 3]], sends((1, 0, 1, 10, 0, 0))) == [10.5 + 3.25] * 2  # a sender waits for its buffers


def test_the_slower_link_and_the_later_rank_are_waited_for() -> None:
    work = [[1, 1, 9, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    near = seconds(work, sends((2, 0, 1, 4, 0, 0)))
    assert near == [1.25 + 4.5 + 1.25] * 2 + [9.25 + 2.5, 3.75]
    far = seconds(work, sends((2, 2, 0, 4, 0, 0)))
    assert far[0] == 9.25 + 8.5 + 1.25  # posted when rank 2 is through with its first step


def test_results_return_after_their_step() -> None:
    traffic = sends((1, 0, 1, 0, 4, 4))
    moved = phases(traffic, 2)
    assert moved.phases == 3
    assert [[c.tolist() for c in leg] for leg in moved.legs] == [[[0], [0], [1], [128]], [[2], [1], [0], [4 * 4 * 9]]]
    assert seconds([[1, 1], [0, 7]], traffic)[0] == (4 * 4 * 8 / 64 + 0.5) + 7.25 + (4 * 4 * 9 / 64 + 0.5)


def test_backward_returns_gradients() -> None:
    widths = replace(WIDTHS, batch=5)
    traffic = sends((1, 0, 1, 2, 0, 0), (1, 1, 0, 0, 3, 3), widths=widths)
    there, back = phases(traffic, 2), phases(traffic, 2, backward=True)
    assert there.at("target")[0].sum(0).tolist() == [5 * 3 * 32, 5 * (2 * 64 + 3 * 36)]
    # queries, output gradients and two numbers of each row go; keys go, their gradients return, so do those of queries
    assert back.at("target")[0].sum(0).tolist() == [5 * (3 * (64 + 8) + 2 * 64), 5 * (2 * 64 + 3 * 32)]
    assert messages(traffic, 2).tolist() == [1, 2]
    assert operations(widths, True) == 5 * 2 * 5 * 8


def test_the_price_of_a_step_is_in_it() -> None:
    work, traffic = [[4, 4], [1, 1]], sends((1, 0, 1, 1, 0, 0))
    slow = replace(MACHINE, step=2.0)
    assert seconds(work, traffic, slow) == [4.25 + 2.0] * 2  # beside the device: hidden but in the last
    assert seconds(work, traffic, replace(slow, beside=False)) == [4.25 + 2 + 1.25 + 2] * 2


def test_keys_are_held_while_they_are_needed() -> None:
    assert keys_held(sends((1, 0, 1, 6, 0, 0), (2, 0, 1, 4, 0, 0), (3, 0, 1, 5, 0, 0)), 2).tolist() == [0, 10]


def test_usual_ways_send_all_keys_and_are_bounded_by_heads() -> None:
    sizes, h100, widths = Sizes(1 << 20, 1 << 20, 32, 8), MACHINES["h100"], Widths(128, 128, 2)
    total = 32 * 4096 * (1 << 20)

    def of(ranks: int) -> tuple[Usual, Usual, Usual]:
        return usual(sizes, ranks, total // ranks, total, widths, h100, "bfloat16")

    ring, gathered, ulysses = of(64)
    assert ring.received == gathered.received == (1 << 20) * 8 * 256 * 2 * 63 // 64
    assert 0.085 < gathered.forward < 0.1
    assert 0.09 < ring.forward < 0.1
    assert ulysses.why == "at most 8 ranks"
    assert of(3)[2].why == "not 8 key heads to 3 ranks"
    assert 0 < of(8)[2].received < of(8)[1].received
    assert [one.received for one in of(1)] == [0, 0, 0]


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_machines_say_where_their_prices_come_from(name: str) -> None:
    machine = MACHINES[name]
    assert machine.name == name
    assert ("not measured" in machine.origin) == (name != "cpu-gloo")
    assert machine.far <= machine.near
    assert machine.step > 0
