"""What travels when, in bytes: the messages of both directions by the step beside which they are on their way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attnspec.codegen.ranks.loads import KEYS, QUERIES, RESULTS, Ints, Loads

Floats = NDArray[np.float64]

SUMS = 4
"""Bytes of a number of what is summed: outputs of parts, their log-sum-exp, gradients."""


class Layer(NamedTuple):
    """The vectors that a schedule is for: how many numbers they have, the element type and its bytes, batch entries."""

    dim: int
    dim_v: int
    dtype: str
    itemsize: int
    batch: int = 1


class _Leg(NamedTuple):
    """A way that messages of a kind go: bytes of a row, there or ``back``, before their step or ``after`` it."""

    kind: int
    row: int
    back: bool = False
    after: bool = False
    joined: bool = False
    """Whether it travels in one message with another."""


def _legs(layer: Layer, backward: bool) -> tuple[_Leg, ...]:
    size, dim, dim_v = layer.itemsize, layer.dim, layer.dim_v
    keys, queries = _Leg(KEYS, size * (dim + dim_v)), _Leg(QUERIES, size * dim)
    if not backward:
        return keys, queries, _Leg(RESULTS, SUMS * (dim_v + 1), after=True)
    return (
        keys,
        _Leg(KEYS, SUMS * (dim + dim_v), back=True, after=True),
        queries,
        # With queries: gradients of outputs, the log-sum-exp of the whole, and its gradient less what outputs take.
        _Leg(RESULTS, size * dim_v + 2 * SUMS, back=True, joined=True),
        _Leg(QUERIES, SUMS * dim, back=True, after=True),
    )


@dataclass(frozen=True)
class Phases:
    """Messages in order of their phase: phase p is beside the work of step p, and the last is after all steps.

    ``nbytes`` are those of all batch entries; ``counted`` is 0 for what travels in another's message, else 1.
    """

    phases: int
    ranks: int
    phase: Ints
    source: Ints
    target: Ints
    nbytes: Ints
    counted: Ints

    @property
    def sent(self) -> Ints:
        """Bytes that each rank sends."""
        return self._by(self.source, self.nbytes)

    @property
    def received(self) -> Ints:
        """Bytes that each rank receives."""
        return self._by(self.target, self.nbytes)

    @property
    def messages(self) -> Ints:
        """How many messages each rank receives."""
        return self._by(self.target, self.counted)

    def _by(self, end: Ints, weights: Ints) -> Ints:
        return np.bincount(end, weights, self.ranks).astype(np.int64)

    def by_phase(self, end: Ints, weights: Ints) -> Floats:
        """Sums over messages by the phase and the rank at one ``end``, shape (phases, ranks)."""
        place = self.phase * self.ranks + end
        found = np.bincount(place, weights, self.phases * self.ranks).astype(np.float64)
        return found.reshape(self.phases, self.ranks)


def phases(loads: Loads, layer: Layer, backward: bool = False) -> Phases:
    """The messages of one pass of a schedule."""
    parts = list[tuple[Ints, ...]]()
    for leg in _legs(layer, backward):
        (at,) = np.nonzero(loads.kind == leg.kind)
        source, target = (loads.target, loads.source) if leg.back else (loads.source, loads.target)
        phase, counted = loads.step[at] + (1 if leg.after else -1), np.full(len(at), int(not leg.joined))
        parts.append((phase, source[at], target[at], loads.rows[at] * (leg.row * layer.batch), counted))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    return Phases(loads.steps + 1, loads.ranks, *(column[order] for column in columns))


def keys_held(loads: Loads) -> Ints:
    """Key rows of others that each rank holds at most: those of a step and, on their way, of the next."""
    found = loads.kind == KEYS
    place = loads.step[found] * loads.ranks + loads.target[found]
    arriving = np.bincount(place, loads.rows[found], (loads.steps + 1) * loads.ranks)
    arriving = arriving.reshape(loads.steps + 1, loads.ranks)
    held: Ints = (arriving[:-1] + arriving[1:]).max(0).astype(np.int64)
    return held
