"""The ranks that other tests run: messages arrive in any order, and what is wrong between ranks is an error."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from attnspec.runtime.distributed.transport import Expected, Sent
from tests.support.ranks import Simulated, Stuck, simulate


def _here(source: int, size: int = 1) -> Expected:
    return Expected(source, torch.empty(size))


def _to_all(transport: Simulated) -> list[float]:
    """Two batches to all others, waited for the other way round: in the order of sources, whenever they come."""
    others = [rank for rank in range(transport.ranks) if rank != transport.rank]
    mine = torch.tensor([float(transport.rank)])
    early, late = ([_here(rank) for rank in others] for _ in range(2))
    first = transport.post([Sent(rank, mine) for rank in others], early)
    second = transport.post([Sent(rank, mine + 10) for rank in others], late)
    second.wait()
    first.wait()
    return [float(here.tensor) for here in (*early, *late)]


def test_messages_match_by_number_whatever_the_order() -> None:
    for seed in range(20):
        ran = simulate(3, _to_all, seed)
        assert ran.results == [[1, 2, 11, 12], [0, 2, 10, 12], [0, 1, 10, 11]]
        assert ran.bytes == dict.fromkeys([(a, b) for a in range(3) for b in range(3) if a != b], 8)


def test_ranks_that_wait_for_each_other_are_told() -> None:
    def circle(transport: Simulated) -> None:
        transport.post([], [_here(1 - transport.rank)]).wait()

    with pytest.raises(Stuck, match=r"rank 0 waits for message 0 from rank 1 to rank 0 \(not sent\); rank 1 waits"):
        simulate(2, circle)


def test_batches_in_another_order_are_found() -> None:
    """Gloo would deliver them; NCCL would wait for ever."""

    def crossed(transport: Simulated) -> None:
        send = [Sent(1 - transport.rank, torch.zeros(1))]
        batches = [(send, []), ([], [_here(1 - transport.rank)])]
        for pending in [transport.post(*batch) for batch in batches]:
            pending.wait()

    found = {_said_of(crossed, seed) for seed in range(8)}
    assert "" in found
    assert any("(on its way)" in said for said in found)


def _said_of(f: Callable[[Simulated], None], seed: int) -> str:
    try:
        simulate(2, f, seed)
    except (Stuck, AssertionError) as error:
        return str(error)
    return ""


def test_what_a_rank_raises_is_raised() -> None:
    def broken(transport: Simulated) -> None:
        if transport.rank == 1:
            raise ZeroDivisionError
        transport.post([], [_here(1)]).wait()

    with pytest.raises(ZeroDivisionError):
        simulate(3, broken)


def test_buffers_and_shapes_are_looked_at() -> None:
    def written(transport: Simulated) -> None:
        buffer = torch.zeros(2)
        if transport.rank == 0:
            pending = transport.post([Sent(1, buffer)], [])
            buffer += 1
        else:
            pending = transport.post([], [_here(0, size)])
        pending.wait()

    size = 2
    assert any("rank 0 wrote to its buffer before it was out" in _said_of(written, seed) for seed in range(8))
    size = 3
    assert any(
        "(2,) torch.float32 was sent, and (3,) torch.float32 expected" in _said_of(written, seed) for seed in range(8)
    )
