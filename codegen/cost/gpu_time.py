"""The time that a pattern's kernels should take on a GPU, from their tiles and the device's measured ceilings.

A kernel is a grid of programs, one for each query tile (or key tile) of each head. Multiprocessors take whole programs,
so that the last round may leave some idle; and a tile is computed whole, whatever part of it the call fills. Both are
counted; what is not is the work beside matrix products (exponentials, masks in partial tiles, launches), so that a
measured time above the predicted one says how much of that there is.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.codegen.cost.cost import Cost, cost
from attnspec.codegen.cost.roofline import Device, Prediction
from attnspec.codegen.plan.choose import plan
from attnspec.codegen.tiles import Tile, square
from attnspec.codegen.triton.schedule import FEW, LEAST_SHARE, Schedule
from attnspec.relation.relation import Relation
from attnspec.relation.sizes import Sizes


@dataclass(frozen=True)
class Kernel:
    """The work of one kernel: programs of equal size on average, operations of matrix products, bytes moved."""

    programs: int
    flops: int
    bytes: int

    def seconds(self, device: Device, rate: float) -> float:
        """What takes longest: the products, dealt out in whole programs, or the bytes."""
        return max(self.products(device, rate), self.bytes / device.bandwidth)

    def products(self, device: Device, rate: float) -> float:
        """The time of the products: that of as many programs as one multiprocessor gets at most.

        >>> Kernel(3, 300, 0).products(Device("d", {}, 1.0, "", units=2), 100.0)
        4.0
        """
        if not self.programs:
            return 0.0
        rounds = -(-self.programs // max(1, device.units))
        return self.flops / self.programs * rounds / (rate / max(1, device.units))


def kernels(costs: tuple[Cost, Cost, Cost], device: Device, itemsize: int) -> tuple[Kernel, Kernel, Kernel]:
    """The kernels of forward, of backward by query tile and of backward by key tile, each with the cost of its plan."""
    own, queries, keys = costs
    s, dim, dim_v = own.sizes, own.dim, own.dim_v
    read = itemsize * (s.heads * s.n_q * s.batch * (dim + dim_v) + s.kv_heads * s.n * s.batch * (dim + dim_v))
    lines = 8 * s.heads * s.n_q * s.batch
    shares = 1
    if s.n_q <= FEW:
        shares = max(1, min(2 * device.units // max(1, s.heads * s.batch), s.n // LEAST_SHARE))
    group = s.heads // s.kv_heads
    return (
        Kernel(own.rows * shares, 2 * (dim + dim_v) * own.visited, own.bytes),
        Kernel(
            queries.rows,
            2 * (2 * dim + dim_v) * queries.visited,
            read + lines + itemsize * s.heads * s.n_q * s.batch * dim,
        ),
        Kernel(
            -(-keys.columns // group),
            2 * (2 * dim + 2 * dim_v) * keys.visited,
            read + lines + itemsize * s.kv_heads * s.n * s.batch * (dim + dim_v),
        ),
    )


def predict(costs: tuple[Cost, Cost, Cost], device: Device, dtype: str, itemsize: int) -> Prediction | None:
    """The time of forward and of backward; None where the device's rate for the element type is not known."""
    rate = device.flops.get(dtype)
    if rate is None:
        return None
    forward, queries, keys = kernels(costs, device, itemsize)
    memory, products = forward.bytes / device.bandwidth, forward.products(device, rate)
    full = products <= 1.25 * forward.flops / rate
    bound = "memory" if memory > products else "compute" if full else "occupancy"
    backward = queries.seconds(device, rate) + keys.seconds(device, rate)
    return Prediction(device.name, forward.seconds(device, rate), backward, bound)


def costs(
    relation: Relation,
    schedule: Schedule,
    sizes: Sizes,
    dim: int,
    itemsize: int,
    layout: str = "auto",
    fixed: Tile | None = None,
) -> tuple[Cost, Cost, Cost]:
    """What the three kinds of kernels cost, each with the tiles of its schedule, or all with a ``fixed`` one.

    Raises TooIrregular where pairs cannot be counted.
    """
    tiles = [shape.tile for shape in (schedule.forward, schedule.queries, schedule.keys)]
    found = {
        tile: cost(plan(relation, fixed, layout, square(tile)), sizes, dim, dim, itemsize)
        for tile in dict.fromkeys(tiles)
    }
    first, second, third = (found[tile] for tile in tiles)
    return first, second, third
