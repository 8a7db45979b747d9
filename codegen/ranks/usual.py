"""What the usual ways take for the same work on the same machine: ring, all-gather and all-to-all over heads (Ulysses).

They know a pattern's pairs but not what is needed for them: every key travels to every rank, or every head.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.codegen.ranks.machines import Machine
from attnspec.codegen.ranks.phases import SUMS, Layer
from attnspec.codegen.ranks.times import operations
from attnspec.relation.sizes import Sizes


@dataclass(frozen=True)
class Usual:
    """Seconds of both passes, bytes that a rank receives forward; or in ``why`` the reason why it cannot be done."""

    name: str
    forward: float = 0.0
    backward: float = 0.0
    received: int = 0
    why: str = ""


@dataclass(frozen=True)
class _Case:
    """What all of them ask for; ``largest`` and ``total`` are pairs, of the rank that has most and of all."""

    sizes: Sizes
    ranks: int
    largest: int
    total: int
    layer: Layer
    machine: Machine

    def compute(self, pairs: float, backward: bool) -> float:
        return pairs * operations(self.layer, backward) / self.machine.flops[self.layer.dtype]

    def busy(self, compute: float, calls: int = 1) -> float:
        """Of a step: kernels, and the host beside them or before them."""
        kernels = compute + calls * self.machine.call
        return max(kernels, self.machine.step) if self.machine.beside else kernels + self.machine.step

    def spread(self, nbytes: float) -> float:
        """Seconds to receive bytes that come from all other ranks alike."""
        machine, others = self.machine, self.ranks - 1
        near = min(machine.node, self.ranks) - 1
        links = max(near / machine.near, (others - near) / machine.far)
        return nbytes * links / others + others * machine.message if others else 0.0

    @property
    def keys(self) -> int:
        """Vectors of keys of a rank, over heads and batch."""
        return -(-self.sizes.n // self.ranks) * self.sizes.kv_heads * self.layer.batch


def usual(
    sizes: Sizes, ranks: int, largest: int, total: int, layer: Layer, machine: Machine
) -> tuple[Usual, Usual, Usual]:
    """All three. ``largest`` and ``total`` are pairs: of the rank with most under the best shards, and of all ranks."""
    case = _Case(sizes, ranks, largest, total, layer, machine)
    return _ring(case), _all_gather(case), _ulysses(case)


def _ring(case: _Case) -> Usual:
    """Keys go round, a neighbour further in each step; in backward their gradients go with them, in float32."""
    layer, machine, numbers = case.layer, case.machine, case.layer.dim + case.layer.dim_v
    rate = machine.near if case.ranks <= machine.node else machine.far  # all wait for the slowest link
    others = case.ranks - 1

    def seconds(backward: bool) -> float:
        nbytes = case.keys * numbers * (layer.itemsize + (SUMS if backward else 0))
        step = case.busy(case.compute(case.largest / case.ranks, backward))
        sent = nbytes / rate + machine.message
        return step + others * max(step, sent) + (sent if backward and others else 0.0)  # gradients go on once more

    return Usual("ring", seconds(False), seconds(True), others * case.keys * numbers * layer.itemsize)


def _all_gather(case: _Case) -> Usual:
    """All keys come first; in backward again, and their gradients return, in float32."""
    numbers = (case.ranks - 1) * case.keys * (case.layer.dim + case.layer.dim_v)
    keys, gradients = numbers * case.layer.itemsize, numbers * SUMS
    forward = case.spread(keys) + case.busy(case.compute(case.largest, False))
    backward = case.spread(keys) + case.busy(case.compute(case.largest, True)) + case.spread(gradients)
    return Usual("all-gather", forward, backward, keys)


def _ulysses(case: _Case) -> Usual:
    """Each rank takes some heads of all positions: queries, keys and values come, outputs return."""
    s, layer, ranks = case.sizes, case.layer, case.ranks
    if s.kv_heads % ranks:
        why = f"at most {s.kv_heads} ranks" if ranks > s.kv_heads else f"not {s.kv_heads} key heads to {ranks} ranks"
        return Usual("Ulysses", why=why)
    vectors = -(-s.n // ranks) * layer.batch * (ranks - 1) // ranks
    keys, queries = vectors * s.kv_heads, vectors * s.heads
    there = layer.itemsize * (queries * layer.dim + keys * (layer.dim + layer.dim_v))
    values = layer.itemsize * queries * layer.dim_v
    forward = case.spread(there) + case.busy(case.compute(case.total / ranks, False)) + case.spread(values)
    backward = case.spread(values) + case.busy(case.compute(case.total / ranks, True)) + case.spread(there)
    return Usual("Ulysses", forward, backward, there + values)
