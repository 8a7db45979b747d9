"""What is kept is there for all queries that may come, at its position, once; and nothing grows that need not."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

import attnspec
from attnspec.analysis.cache_size import KeyHeads
from attnspec.analysis.retention import EVERY_KEY, Retention, Ring, retention
from attnspec.relation.lower import lower
from attnspec.relation.sizes import Sizes
from attnspec.runtime.caches.kept import ROOM, Kept
from attnspec.runtime.caches.strip import Strip

LONG = 120
PATTERNS = {
    text: attnspec.read(f"attention a {{ attend {text} }}")
    for text in (
        "window(7)",
        "sinks(3)  attend window(20)  within causal",
        "9 <= k < 12 and causal  attend window(4)  attend k in [40, 41]",
        "|q - k| <= 5",
        "q // 24 == k // 24",
        "k % 8 >= 6 and causal  attend window(3)",
        "causal and (q - k) % 5 == 0 and q - k < 30",
        "q == k",
        "causal",
    )
}

RETENTION = {text: retention(lower(spec), Sizes(1, 1))[0].retention for text, spec in PATTERNS.items()}


def numbered(at: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values that say where they stand."""
    places = torch.arange(at, at + count, dtype=torch.float32)
    return places.view(1, 1, -1, 1).expand(2, 1, -1, 3), -places.view(1, 1, -1, 1).expand(2, 1, -1, 4)


def there(kept: Kept) -> list[int]:
    """The positions that are there, from what keys and values say of themselves."""
    found: list[int] = []
    for piece in kept.pieces():
        assert (piece.k[..., 0] == -piece.v[..., 0]).all()
        assert piece.k[0, 0, :, 0].tolist() == list(range(piece.start, piece.start + piece.k.shape[2]))
        found += range(piece.start, piece.start + piece.k.shape[2])
    assert found == [position for run in kept.positions for position in run]
    assert found == sorted(set(found))
    return found


@given(
    text=st.sampled_from(sorted(PATTERNS)),
    chunks=st.lists(st.sampled_from([0, 1, 1, 1, 2, 5, 16, 17, 40, 60]), max_size=30),
)
def test_queries_find_what_they_see(text: str, chunks: list[int]) -> None:
    spec = PATTERNS[text]
    kept, n = Kept(KeyHeads(range(1), RETENTION[text])), 0
    for chunk in chunks:
        if n + chunk > LONG:
            break
        kept.append(*numbered(n, chunk))
        n += chunk
        assert kept.first_query <= n - chunk
        if not n:
            continue
        found = {*there(kept)}
        asked = n - kept.first_query  # these, and all those that come later
        seen = spec.mask(n, asked)[0, 0].any(0)
        assert {*np.flatnonzero(seen).tolist()} <= found
        if chunk <= ROOM and RETENTION[text].bound is not None:
            assert len(found) <= RETENTION[text].bound + 2 * ROOM
        kept.attended()
        assert kept.first_query <= max(0, n - 1) or not chunk


def test_a_ring_takes_no_more_memory_the_longer_it_runs() -> None:
    kept = Kept(KeyHeads(range(1), Retention((range(4),), (Ring(100),))))
    kept.append(*numbered(0, 5000))
    kept.attended()
    sizes = set()
    for n in range(5000, 5300):
        kept.append(*numbered(n, 1))
        sizes.add(kept.bytes)
        assert len(list(kept.pieces())) <= 3
    assert sizes == {2 * 7 * 4 * (128 + 4)}


def test_what_grows_is_copied_ever_less_often() -> None:
    strip, rooms = Strip(0, None, None), set()
    for n in range(3000):
        strip.append(n, *numbered(n, 1))
        rooms.add(strip.bytes)
    assert len(rooms) == 7  # from 64 to 4,096
    assert [p.k.shape[2] for p in strip.pieces()] == [3000]


def test_more_tokens_than_there_is_room_for_stand_beside_the_ring_until_they_have_attended() -> None:
    kept = Kept(KeyHeads(range(1), Retention((), (Ring(10),))))
    kept.append(*numbered(0, 50))
    kept.append(*numbered(50, 40))
    assert there(kept) == list(range(40, 90))
    assert kept.first_query == 50
    kept.attended()
    assert there(kept) == list(range(58, 90))
    assert kept.first_query == 68


def test_entries_of_the_batch_change_places_and_everything_is_forgotten() -> None:
    for retention_ in (Retention((range(2),), (Ring(4),)), EVERY_KEY):
        kept = Kept(KeyHeads(range(1), retention_))
        k, v = numbered(0, 90)
        kept.append(torch.stack((k[0], k[1] + 100)), torch.stack((v[0], v[1] - 100)))
        kept.reorder(torch.tensor([1, 0, 1]))
        for piece in kept.pieces():
            assert [int(x) - piece.start for x in piece.k[:, 0, 0, 0]] == [100, 0, 100]
        kept.reset()
        assert (kept.positions, kept.first_query) == ((), 0)
        kept.append(*(t.repeat(2, 1, 1, 1)[:3] for t in numbered(0, 3)))
        assert there(kept) == [0, 1, 2]
