"""What travels when, in bytes: the messages of both directions by the step beside which they are on their way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnspec.codegen.ranks.exchange import Exchange
from attnspec.codegen.ranks.needs import Ints

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Phases:
    """Messages in order of their phase: phase p is beside the work of step p, and the last is after all steps."""

    phases: int
    ranks: int
    phase: Ints
    source: Ints
    target: Ints
    nbytes: Ints

    def by_phase(self, end: Ints, weights: Ints | None = None) -> Floats:
        """Bytes, or other sums over messages, by the phase and the rank at one ``end``, shape (phases, ranks)."""
        place = self.phase * self.ranks + end
        found = np.bincount(place, self.nbytes if weights is None else weights, self.phases * self.ranks)
        return found.astype(np.float64).reshape(self.phases, self.ranks)


def phases(made: Exchange, ranks: int, backward: bool = False) -> Phases:
    """The messages of a pass: what a step needs comes beside the one before, what it gives returns beside the next."""
    there, back = (made.backward, made.backward_back) if backward else (made.forward, made.forward_back)
    legs = ((made.source, made.target, there, -1), (made.target, made.source, back, 1))
    parts = [(made.step + shift, source, target, nbytes) for source, target, nbytes, shift in legs]
    phase, source, target, nbytes = (np.concatenate(column) for column in zip(*parts, strict=True))
    sent = np.flatnonzero(nbytes)
    short = np.uint16 if made.steps < 1 << 16 else np.int64  # numpy sorts short integers by their digits
    order = sent[np.argsort(phase[sent].astype(short), kind="stable")]
    return Phases(made.steps + 1, ranks, phase[order], source[order], target[order], nbytes[order])


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
