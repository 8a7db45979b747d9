"""The choice among schedules by measured time, with a clock of our own: kernels run in triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import attnspec
from attnspec.codegen.tiles import Tile
from attnspec.codegen.triton.schedule import FEW, KINDS, MOST_ROWS, Few, Shape, candidates, schedule_for
from attnspec.runtime.triton import tune as triton_tune
from attnspec.runtime.triton.module import packed

pytest.importorskip("triton")

SHAPES = {kind: tuple(Shape(Tile(size, 16), 4, 1) for size in (16, 32, 64)) for kind in KINDS}


def test_the_fastest_of_each_kind_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {
        "forward": {16: 3.0, 32: 1.0, 64: 2.0},
        "queries": {16: 1.0, 32: 2.0, 64: 3.0},
        "keys": {16: 9.0, 32: 8.0},
    }
    seen: list[str] = []

    def timed(kind: str, own: triton_tune.Schedule, *_: object) -> float | None:
        seen.append(kind)
        return speeds[kind].get(own.of(kind).tile.rows)

    monkeypatch.setattr(triton_tune, "time_of", timed)
    found = triton_tune.measured(SHAPES, torch.empty(0), torch.empty(0), lambda launch: 0.0)
    assert [found.of(kind).tile.rows for kind in KINDS] == [32, 16, 32], "what cannot run is left out"
    assert seen == [kind for kind in KINDS for _ in range(3)]


@pytest.mark.slow
def test_kernels_are_launched_alone() -> None:
    launched = 0

    def clock(launch: Callable[[], object]) -> float:
        nonlocal launched
        launch()
        launched += 1
        return -float(launched)  # each is faster than the one before

    q, k = torch.randn(1, 2, 40, 16), torch.randn(1, 2, 40, 16)
    found = triton_tune.measured(SHAPES, q, k, clock)
    assert launched == 9
    assert all(found.of(kind) == SHAPES[kind][-1] for kind in KINDS)


def test_nothing_is_measured_on_the_cpu() -> None:
    q = torch.empty(1, 1, 100, 80, dtype=torch.float16)
    assert triton_tune.schedule(q, q) == schedule_for(80, 2, 100)


def test_tiles_of_few_queries() -> None:
    """All heads that share their keys fit in; no tile is larger than it must be, or cut finer than a product takes."""
    for n_q in range(1, FEW + 1):
        for group in (1, 2, 3, 4, 7, 8, 20, 32, 64, 65):
            few = Few.of(n_q, group)
            assert (few.heads >= group) == (group <= MOST_ROWS)
            assert few.heads < 2 * group
            assert 16 <= few.rows * few.heads <= MOST_ROWS
            assert few.rows * few.heads == 16 or few.rows <= FEW
            assert few.heads == 1 or few.rows * few.heads == MOST_ROWS or few.rows >= n_q
            assert candidates(64, 2, n_q, group)["forward"][0].tile.rows == few.rows


def test_which_heads_share_a_tile() -> None:
    def heads(name: str, n_q: int, itemsize: int = 2, **options: Any) -> int:
        return packed(attnspec.compile(name, target="triton", **options).program, n_q, 4, itemsize)

    assert heads("causal", 1) == heads("gpt_oss", 3) == heads("padded", 16) == 4
    assert heads("causal", 17) == heads("alibi", 1) == heads("longnet_branch", 1) == heads("reformer", 1) == 1
    assert heads("causal", 1, tile=(16, 32)) == 4
    assert heads("causal", 1, tile=(32, 32)) == 1, "too many rows"
    assert heads("causal", 4, itemsize=4) == 4
    assert heads("causal", 5, itemsize=4) == 1, "too many registers"


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("dim", [16, 64, 80, 128, 256])
@pytest.mark.parametrize("n_q", [1, 16, 17])
def test_candidates(dim: int, itemsize: int, n_q: int) -> None:
    for kind, shapes in candidates(dim, itemsize, n_q).items():
        assert kind in KINDS
        assert len(set(shapes)) == len(shapes) >= 1
        for shape in shapes:
            assert all(size >= 16 and size & (size - 1) == 0 for size in (shape.tile.rows, shape.tile.columns))
            assert n_q > 16 or kind != "forward" or shape.tile.rows == 16
