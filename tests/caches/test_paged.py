"""Pages between those that stay are dropped and used again, and no query misses one."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

import attnspec
from attnspec.analysis.cache_size import KeyHeads
from attnspec.analysis.retention import retention
from attnspec.relation.lower import lower
from attnspec.relation.sizes import Sizes
from attnspec.runtime.caches.cache import Cache
from attnspec.runtime.caches.paged import InPages

TEXT = "attention a { attend k % 32 >= 24 and causal  attend 3 <= k < 5  attend window(19)  within causal }"
SPEC = attnspec.read(TEXT)
(KEPT,) = retention(lower(SPEC), Sizes(1, 1))


@given(chunks=st.lists(st.sampled_from([0, 1, 1, 1, 2, 5, 16, 17, 40, 60]), max_size=30))
def test_queries_find_what_they_see(chunks: list[int]) -> None:
    cache, n = InPages(KeyHeads(range(1), KEPT.retention)), 0
    for chunk in chunks:
        cache.append(*torch.zeros(2, 1, 1, chunk, 2).unbind(0))
        n += chunk
        there = {position for run in cache.positions for position in run}
        assert cache.first_query <= n - chunk
        assert {*np.flatnonzero(SPEC.mask(n, n - cache.first_query)[0, 0].any(0)).tolist()} <= there if n else not there
        assert len(there) <= KEPT.retention.stored(n) + chunk + 32


def test_rows_are_those_of_the_whole_call_in_a_quarter_of_the_memory() -> None:
    attend = attnspec.compile(TEXT, target="dense")
    cache = Cache(attnspec.compile(TEXT), batch=2, kv_heads=2, heads=4, dim=16)
    q, k, v = (torch.randn(2, heads, 700, 16, generator=torch.Generator().manual_seed(heads)) for heads in (4, 2, 2))
    for now in (slice(0, 300), slice(300, 301), slice(301, 330), slice(330, 690), slice(690, 700)):
        cache.append(k[:, :, now], v[:, :, now])
        want, want_lse = attend(q[:, :, now], k[:, :, : now.stop], v[:, :, : now.stop], return_lse=True)
        out, lse = cache.attend(q[:, :, now], return_lse=True)
        torch.testing.assert_close((out, lse), (want, want_lse), atol=1e-5, rtol=1e-4)
    assert sum(map(len, cache.positions[0])) <= 700 // 4 + 60
    with_room = cache.bytes
    cache.reorder(torch.tensor([1, 1]))
    again = attend(q[[1, 1]][:, :, -5:], k[[1, 1]], v[[1, 1]])
    torch.testing.assert_close(cache.attend(q[[1, 1]][:, :, -5:]), again, atol=1e-5, rtol=1e-4)
    cache.reset()
    cache.append(k[:, :, :40], v[:, :, :40])
    torch.testing.assert_close(
        cache.attend(q[:, :, :40]), attend(*(t[:, :, :40] for t in (q, k, v))), atol=1e-5, rtol=1e-4
    )
    assert cache.bytes == with_room
