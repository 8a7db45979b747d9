"""Predictions for GPUs: arithmetic on tiles and ceilings, in numbers of our own; no GPU is needed for that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import attnspec
from attnspec.codegen.cost import gpu_time
from attnspec.codegen.cost.cost import cost
from attnspec.codegen.cost.roofline import Device
from attnspec.codegen.plan.choose import plan
from attnspec.codegen.tiles import Tile
from attnspec.codegen.triton.schedule import Schedule, Shape, schedule_for
from attnspec.relation.lower import lower
from attnspec.relation.sizes import Sizes
from attnspec.runtime.bench import gpu_ceilings
from attnspec.runtime.bench.counted import live
from attnspec.runtime.bench.predicted import on_device
from attnspec.runtime.bench.setup import Setup, examples
from attnspec.runtime.prepare.example import example
from attnspec.runtime.prepare.inputs import prepare
from tests.support.command import read_json, run

FAST = Device("a GPU", {"bfloat16": 8e12}, 1e18, "invented for this test", units=8)
SCHEDULE = Schedule(Shape(Tile(128, 64), 8, 3), Shape(Tile(64, 64), 4, 2), Shape(Tile(32, 128), 4, 2))


def costs(name: str, sizes: Sizes, **params: object) -> tuple[gpu_time.Cost, gpu_time.Cost, gpu_time.Cost]:
    relation = lower(attnspec.read(name, params=params), sizes.heads, sizes.kv_heads, sizes.batch)
    return gpu_time.costs(relation, SCHEDULE, sizes, 64, 2)


def test_whole_tiles_are_counted() -> None:
    """A tile that is cut off at the end of a call is computed whole."""
    found = cost(plan(lower(attnspec.read("dense")), Tile(128, 64)), Sizes(300, 300), 64, 64, 2)
    assert found.computed == 300 * 300
    assert found.visited == 3 * 5 * 128 * 64
    assert (found.rows, found.columns, found.tiles) == (3, 5, 15)


def test_time_follows_from_tiles() -> None:
    sizes = Sizes(1024, 1024, 4, 4, 2)
    found = costs("dense", sizes)
    forward, queries, keys = gpu_time.kernels(found, FAST, 2)
    assert [k.programs for k in (forward, queries, keys)] == [8 * 8, 8 * 16, 8 * 8]
    pairs = 8 * 1024 * 1024
    assert [k.flops for k in (forward, queries, keys)] == [4 * 64 * pairs, 6 * 64 * pairs, 8 * 64 * pairs]
    predicted = gpu_time.predict(found, FAST, "bfloat16", 2)
    assert predicted is not None
    assert predicted.forward == pytest.approx(4 * 64 * pairs / 8e12)  # programs fill all multiprocessors
    assert predicted.backward == pytest.approx(14 * 64 * pairs / 8e12)
    assert predicted.bound == "compute"
    assert gpu_time.predict(found, FAST, "float32", 2) is None
    slow = replace(FAST, bandwidth=1e3)
    bound = gpu_time.predict(found, slow, "bfloat16", 2)
    assert bound is not None
    assert (bound.bound, bound.forward) == ("memory", found[0].bytes / 1e3)


def test_the_last_round_leaves_multiprocessors_idle() -> None:
    found = costs("dense", Sizes(128 * 9, 128 * 9))
    forward = gpu_time.kernels(found, FAST, 2)[0]
    assert forward.programs == 9
    assert forward.products(FAST, 8e12) == pytest.approx(forward.flops / 9 * 2 / 1e12)
    predicted = gpu_time.predict(found, FAST, "bfloat16", 2)
    assert predicted is not None
    assert predicted.bound == "occupancy"


def test_keys_shared_by_heads_and_keys_shared_out() -> None:
    grouped = gpu_time.kernels(costs("causal", Sizes(1024, 1024, 4, 1)), FAST, 2)[2]
    assert grouped.programs == 1024 // 128
    decode = gpu_time.kernels(costs("causal", Sizes(8192, 1, 2, 2, 1, True)), FAST, 2)[0]
    assert decode.programs == 2 * 8  # 2 * 8 multiprocessors, 2 heads: the keys are cut into 8 parts


def test_what_inputs_rule_out_is_not_counted() -> None:
    spec = attnspec.read("packed")
    sizes = Sizes(1700, 1700, 2, 2, 2, True)
    given = example(spec, sizes, torch.Generator().manual_seed(3))
    tables, mask = (
        prepare(spec, sizes, given),
        torch.from_numpy(spec.mask(1700, 1700, 2, 2, inputs={"doc": given["doc"].numpy()})),
    )
    tile = Tile(64, 32)
    found = live(spec, sizes, tables, (tile,))
    assert found is not None
    assert found.pairs == int(mask.sum())
    tiles = torch.nn.functional.pad(mask, (0, -1700 % 32, 0, -1700 % 64)).unflatten(3, (-1, 32)).unflatten(2, (-1, 64))
    assert found.tiles[tile] == int(tiles.any(5).any(3).sum())
    attend, setup = attnspec.compile("packed"), Setup(sizes, 64, torch.bfloat16, False, 3)
    told = on_device(attend, setup, examples(spec, setup), schedule_for(64, 2, 1700), FAST)
    assert not told.bounded
    assert told.pairs is not None
    assert told.pairs < attend.cost(n=1700, heads=2, batch=2).pairs
    ordered = attnspec.compile("reformer", buckets=8, rounds=2, chunk=32)
    unknown = on_device(ordered, setup, {}, schedule_for(64, 2, 1700), FAST)
    assert unknown.pairs is None
    assert unknown.bounded
    assert unknown.seconds(True) == unknown.times.forward + unknown.times.backward  # type: ignore[union-attr]


def test_ceilings_are_kept_and_inspect_lists_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNSPEC_CACHE", str(tmp_path))
    assert gpu_ceilings.remembered() == ()
    gpu_ceilings.remember(FAST)
    gpu_ceilings.remember(replace(FAST, name="another GPU", flops={"bfloat16": 4e12}))
    assert [gpu.name for gpu in gpu_ceilings.remembered()] == ["a GPU", "another GPU"]
    assert gpu_ceilings.remembered()[0] == FAST
    text = run("inspect", "window", "width=64", "-n", "1024", "--dtype", "bfloat16").stdout
    assert "another GPU" in text
    found = read_json("inspect", "window", "width=64", "-n", "1024", "--dtype", "bfloat16")
    named = {p["device"]: p for p in found["predictions"]}
    assert named["another GPU"]["forward"] > named["a GPU"]["forward"] > 0
    assert "another GPU" not in run("inspect", "window", "-n", "1024").stdout, "no rate for float32 is known"
