"""What travels when, in bytes: the messages of both directions by the step beside which they are on their way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attnspec.codegen.ranks.exact import Counts
from attnspec.codegen.ranks.exchange import Exchange
from attnspec.codegen.ranks.needs import Ints

Floats = NDArray[np.float64]


class Leg(NamedTuple):
    """Messages that go one way, in order of their phase."""

    phase: Ints
    source: Ints
    target: Ints
    nbytes: Counts

    def take(self, which: Ints) -> Leg:
        """Some of them."""
        return Leg(*(column[which] for column in self))


@dataclass(frozen=True)
class Phases:
    """Messages by their phase: phase p is beside the work of step p, and the last is after all steps."""

    phases: int
    ranks: int
    legs: tuple[Leg, ...]

    def at(self, end: Literal["source", "target"], legs: Iterable[Leg] | None = None) -> tuple[Floats, Ints]:
        """Bytes, and how many messages, by the phase and the rank at one end, shape (phases, ranks)."""
        length = self.phases * self.ranks
        nbytes, number = np.zeros(length), np.zeros(length, dtype=np.int64)
        for leg in self.legs if legs is None else legs:
            place = leg.phase * self.ranks
            place += getattr(leg, end)
            nbytes += np.bincount(place, leg.nbytes.astype(np.float64), length)
            number += np.bincount(place, minlength=length)
        return nbytes.reshape(self.phases, self.ranks), number.reshape(self.phases, self.ranks)


def phases(made: Exchange, ranks: int, backward: bool = False) -> Phases:
    """The messages of a pass: what a step needs comes beside the one before, what it gives returns beside the next."""
    there, back = made.nbytes(backward)
    order, step, source, target = made.in_order
    found = (Leg(step - 1, source, target, there[order]), Leg(step + 1, target, source, back[order]))
    legs = (leg if leg.nbytes.all() else leg.take(np.flatnonzero(leg.nbytes)) for leg in found)
    return Phases(made.steps + 1, ranks, tuple(leg for leg in legs if len(leg.phase)))


def messages(made: Exchange, ranks: int) -> Ints:
    """How many messages each rank receives forward."""
    there, back = (made.forward > 0).astype(np.int64), (made.forward_back > 0).astype(np.int64)
    return (np.bincount(made.target, there, ranks) + np.bincount(made.source, back, ranks)).astype(np.int64)


def keys_held(made: Exchange, ranks: int) -> Ints:
    """Key rows of others that each rank holds at most: those of a step and, on their way, of the next."""
    place = made.step * ranks + made.target
    arriving = np.bincount(place, made.keys, (made.steps + 1) * ranks).reshape(made.steps + 1, ranks)
    held: Ints = (arriving[:-1] + arriving[1:]).max(0).astype(np.int64)
    return held
