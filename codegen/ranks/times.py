"""How long a schedule takes on a machine, step by step: what arrives for a step travels while the one before computes.

A rank posts the messages of the next step, computes the step, and waits. A message is on its way when both of its ranks
have posted it. Results of queries travel back one step after they were computed; so do, in backward, gradients of
keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from attnspec.codegen.ranks.exchange import Exchange
from attnspec.codegen.ranks.loads import Loads
from attnspec.codegen.ranks.machines import Machine
from attnspec.codegen.ranks.phases import Floats, Phases, phases
from attnspec.codegen.ranks.traffic import Widths

_ENDS: tuple[Literal["source", "target"], ...] = ("source", "target")


@dataclass(frozen=True)
class Times:
    """Seconds of one pass, an array over ranks each.

    ``whole`` is when a rank is done; ``compute`` and ``messages`` what it would take if all else were free.
    """

    whole: Floats
    compute: Floats
    messages: Floats

    @property
    def seconds(self) -> float:
        """When the last rank is done."""
        return float(self.whole.max())


def operations(widths: Widths, backward: bool) -> int:
    """Those of a pair: two products forward, five backward."""
    dim, dim_v = widths.dim, widths.dim_v
    return widths.batch * 2 * (3 * dim + 2 * dim_v if backward else dim + dim_v)


def times(
    loads: Loads, traffic: Exchange, widths: Widths, machine: Machine, dtype: str, backward: bool = False
) -> Times:
    """The times of one pass. Alike on every processor that works them out: there are no sums whose order is open."""
    steps, ranks = loads.pairs.shape
    moved = phases(traffic, ranks, backward)
    pair = operations(widths, backward) / machine.flops[dtype]
    compute = loads.pairs.astype(np.float64) * pair + loads.calls * machine.call
    busy = np.maximum(compute, machine.step) if machine.beside else compute + machine.step
    transfers = _transfers(moved, machine)
    now = np.zeros(ranks)
    cuts = [(leg, np.searchsorted(leg.phase, np.arange(moved.phases + 1)).tolist()) for leg in moved.legs]
    for phase in range(moved.phases):
        done, posted = now + busy[phase] if phase < steps else now, now
        for leg, ends in cuts:
            source, target = (side[ends[phase] : ends[phase + 1]] for side in (leg.source, leg.target))
            if len(source):
                posted = now.copy() if posted is now else posted
                both = np.maximum(now[source], now[target])
                np.maximum.at(posted, source, both)
                np.maximum.at(posted, target, both)
        now = done if posted is now else np.maximum(done, posted + transfers[phase])
    return Times(now, np.add.reduce(compute, 0), np.add.reduce(transfers, 0))


def _transfers(moved: Phases, machine: Machine) -> Floats:
    """Seconds that each rank's messages of each phase take, shape (phases, ranks): both ways and both links at once."""
    near = [leg.take(np.flatnonzero(leg.source // machine.node == leg.target // machine.node)) for leg in moved.legs]
    longest, most = np.zeros((moved.phases, moved.ranks)), np.zeros((moved.phases, moved.ranks), dtype=np.int64)
    for end in _ENDS:
        (of_node, _), (of_all, number) = moved.at(end, near), moved.at(end)
        np.maximum(longest, of_node / machine.near, out=longest)
        np.maximum(longest, (of_all - of_node) / machine.far, out=longest)
        np.maximum(most, number, out=most)
    return longest + most * machine.message
