"""What the usual ways take for the same work on the same machine: ring, all-gather and all-to-all over heads (Ulysses).

They know a pattern's pairs but not what is needed for them: every key travels to every rank, or every head.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.codegen.ranks.machines import Machine
from attnspec.codegen.ranks.times import operations
from attnspec.codegen.ranks.traffic import Widths
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
    widths: Widths
    machine: Machine
    dtype: str

    def compute(self, pairs: float, backward: bool) -> float:
        return pairs * operations(self.widths, backward) / self.machine.flops[self.dtype]

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
        """Keys of a rank, each head's apart."""
        return -(-self.sizes.n // self.ranks) * self.sizes.kv_heads


def usual(
    sizes: Sizes, ranks: int, largest: int, total: int, widths: Widths, machine: Machine, dtype: str
) -> tuple[Usual, Usual, Usual]:
    """All three. ``largest`` and ``total`` are pairs: of the rank with most under the best shards, and of all ranks."""
    case = _Case(sizes, ranks, largest, total, widths, machine, dtype)
    return _ring(case), _all_gather(case), _ulysses(case)


def _ring(case: _Case) -> Usual:
    """Keys go round, a neighbour further in each step; in backward their gradients go with them, in float32."""
    machine, widths, others = case.machine, case.widths, case.ranks - 1

    def seconds(backward: bool) -> float:
        nbytes = case.keys * (widths.key + (widths.key_gradient if backward else 0))
        step = case.busy(case.compute(case.largest / case.ranks, backward))
        sent = nbytes / machine.slowest(case.ranks) + machine.message
        return step + others * max(step, sent) + (sent if backward and others else 0.0)  # gradients go on once more

    return Usual("ring", seconds(False), seconds(True), others * case.keys * widths.key)


def _all_gather(case: _Case) -> Usual:
    """All keys come first; in backward again, and their gradients return, in float32."""
    far = (case.ranks - 1) * case.keys
    keys, gradients = far * case.widths.key, far * case.widths.key_gradient
    forward = case.spread(keys) + case.busy(case.compute(case.largest, False))
    backward = case.spread(keys) + case.busy(case.compute(case.largest, True)) + case.spread(gradients)
    return Usual("all-gather", forward, backward, keys)


def _ulysses(case: _Case) -> Usual:
    """Each rank takes some heads of all positions: queries, keys and values come, outputs return."""
    s, widths, ranks = case.sizes, case.widths, case.ranks
    if s.kv_heads % ranks:
        why = f"at most {s.kv_heads} ranks" if ranks > s.kv_heads else f"not {s.kv_heads} key heads to {ranks} ranks"
        return Usual("Ulysses", why=why)
    far = -(-s.n // ranks) * (ranks - 1)
    there = far * (s.heads // ranks * widths.query + s.kv_heads // ranks * widths.key)
    values = far * (s.heads // ranks) * widths.batch * widths.dim_v * widths.itemsize
    forward = case.spread(there) + case.busy(case.compute(case.total / ranks, False)) + case.spread(values)
    backward = case.spread(values) + case.busy(case.compute(case.total / ranks, True)) + case.spread(there)
    return Usual("Ulysses", forward, backward, there + values)
