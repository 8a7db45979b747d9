"""What a benchmark's calls should take by their tiles, and how many pairs they have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attnspec.codegen.cost.cost import Cost, cost
from attnspec.codegen.cost.roofline import Device, Prediction
from attnspec.codegen.tiles import Tile
from attnspec.codegen.triton.schedule import KINDS, Schedule
from attnspec.relation.count import TooIrregular
from attnspec.relation.presburger import TooHard
from attnspec.relation.relation import scalars
from attnspec.relation.sizes import Sizes
from attnspec.runtime.attention import Attention
from attnspec.runtime.bench.counted import live
from attnspec.runtime.bench.setup import Setup
from attnspec.runtime.prepare.inputs import prepare


@dataclass(frozen=True)
class Predicted:
    """Live pairs of a call (None: not known), and the times of its passes (None: the device's ceilings are not known).

    ``bounded`` says that tiles which inputs may rule out are counted; ``states`` that weights are products of features,
    of which few pairs are computed one by one, so that operations on live pairs say nothing.
    """

    pairs: int | None
    times: Prediction | None
    bounded: bool
    states: bool = False

    def seconds(self, backward: bool) -> float | None:
        """The time of a call: with backward, of both passes."""
        if self.times is None:
            return None
        return self.times.forward + (self.times.backward if backward else 0.0)


def predicted(attend: Attention, setup: Setup, given: Mapping[str, Tensor]) -> Predicted:
    """The prediction for a call on the device of the setup; a GPU's ceilings are measured where they are not known."""
    try:
        return _on_cpu(attend, setup, given) if setup.device.type == "cpu" else _on_gpu(attend, setup, given)
    except (TooHard, TooIrregular):
        return Predicted(None, None, False)


def _sizes(attend: Attention, setup: Setup, given: Mapping[str, Tensor]) -> Sizes:
    arrays = {name: t.numpy(force=True) for name, t in given.items()}
    return replace(setup.sizes, scalars=scalars(attend.spec, arrays))


def _on_cpu(attend: Attention, setup: Setup, given: Mapping[str, Tensor]) -> Predicted:
    from attnspec.codegen.cost.roofline import predict
    from attnspec.runtime.bench.ceilings import remembered

    s, device = setup.sizes, remembered()
    if device is None:
        return Predicted(None, None, False)
    made = attend.plan_for(heads=s.heads, kv_heads=s.kv_heads, batch=s.batch)
    if not made.relation.exact:
        return Predicted(None, None, True)
    found = cost(made, _sizes(attend, setup, given), setup.dim, setup.dim, setup.dtype.itemsize)
    times = predict(found, device, setup.dtype_name) if found.kernel else None
    return Predicted(None if attend.spec.order else found.pairs, times, False, found.linear is not None)


def _on_gpu(attend: Attention, setup: Setup, given: Mapping[str, Tensor]) -> Predicted:
    from attnspec.runtime.bench.gpu_ceilings import gpu_ceilings
    from attnspec.runtime.triton import tune as triton_tune

    s = setup.sizes
    q = torch.empty(1, 1, s.n_q, setup.dim, dtype=setup.dtype, device=setup.device)
    return on_device(attend, setup, given, triton_tune.schedule(q, q), gpu_ceilings(setup.device))


def on_device(
    attend: Attention, setup: Setup, given: Mapping[str, Tensor], schedule: Schedule, device: Device
) -> Predicted:
    """The same with a given schedule and ceilings. Raises TooHard, TooIrregular if tiles are not counted."""
    from attnspec.codegen.cost.gpu_time import costs, predict

    s, spec = setup.sizes, attend.spec
    relation = attend.relation_for(heads=s.heads, kv_heads=s.kv_heads, batch=s.batch)
    itemsize, layout, tile = setup.dtype.itemsize, attend.program.layout, attend.program.tile
    fixed = None if tile is None else Tile(*tile)
    found = costs(relation, schedule, _sizes(attend, setup, given), setup.dim, itemsize, layout, fixed)
    pairs: int | None = None if spec.order else found[0].pairs
    if not relation.exact:
        found, pairs = _counted(attend, setup, given, found, [fixed or schedule.of(kind).tile for kind in KINDS])
    times = predict(found, device, setup.dtype_name, itemsize)
    return Predicted(pairs, times, pairs is None)


def _counted(
    attend: Attention, setup: Setup, given: Mapping[str, Tensor], found: tuple[Cost, Cost, Cost], tiles: list[Tile]
) -> tuple[tuple[Cost, Cost, Cost], int | None]:
    """Costs with the tiles that the inputs leave, and the live pairs; as they were where these cannot be counted."""
    s = setup.sizes
    seen = live(attend.spec, s, prepare(attend.spec, s, given), tiles)
    if seen is None:
        return found, None
    areas = [
        min(kernel.visited, seen.tiles[tile] * tile.rows * tile.columns)
        for kernel, tile in zip(found, tiles, strict=True)
    ]
    one, two, three = (replace(kernel, visited=area) for kernel, area in zip(found, areas, strict=True))
    return (one, two, three), seen.pairs
