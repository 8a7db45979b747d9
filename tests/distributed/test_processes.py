"""Real processes of a gloo group: what simulated ranks show, and sub-groups."""

from __future__ import annotations

import pytest

from attnspec.runtime.distributed.launch import RankError, on_processes
from tests.support import spread_processes

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_processes_find_what_one_device_finds(ranks: int) -> None:
    for found in on_processes(ranks, spread_processes.worst):
        assert max(found) < 1, found


def test_groups_and_meshes_that_are_not_all_processes() -> None:
    for found in on_processes(4, spread_processes.in_sub_groups):
        assert max(found) < 1, found


def test_a_rank_that_ends_is_an_error_in_the_others() -> None:
    with pytest.raises(RankError, match="rank 1 of 3"):
        on_processes(3, spread_processes.one_dies)
