"""What travels once although several parts need it: positions of a chunk that a rank gets, each once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from attnspec.codegen.ranks.needs import Ints
from attnspec.codegen.ranks.shapes import Shapes

_DENSE = 1 << 23
_BITS = 62


class Wanted(NamedTuple):
    """What ranks want: of a chunk, for a ``kind`` (a group of heads, a branch), positions of a shape."""

    target: Ints
    chunk: Ints
    kind: Ints
    shape: Ints


class Got(NamedTuple):
    """How many positions of a chunk go to a rank."""

    target: Ints
    chunk: Ints
    kind: Ints
    total: Ints


def distinct(wanted: Wanted, shapes: Shapes, chunks: int, kinds: int) -> Got:
    """How many positions each rank gets of each of ``chunks``, for each of ``kinds``: those of several parts once."""
    name = (wanted.target * max(1, chunks) + wanted.chunk) * kinds + wanted.kind
    used, shape = np.unique(wanted.shape, return_inverse=True)
    if len(used) <= _BITS:
        names, total = _by_bits(name, used, shape, shapes)
    else:
        names, total = _one_by_one(name, wanted.shape, shapes)
    kind, rest = names % kinds, names // kinds
    return Got(rest // max(1, chunks), rest % max(1, chunks), kind, total)


def _by_bits(name: Ints, used: Ints, shape: Ints, shapes: Shapes) -> tuple[Ints, Ints]:
    """Where there are few shapes: the set of those that a rank wants is a number."""
    most = int(name.max(initial=-1)) + 1
    if most <= _DENSE:
        held = np.zeros(most, dtype=np.int64)
        np.bitwise_or.at(held, name, np.int64(1) << shape)
        names = np.flatnonzero(held)
        held = held[names]
    else:
        names, of = np.unique(name, return_inverse=True)
        held = np.zeros(len(names), dtype=np.int64)
        np.bitwise_or.at(held, of, np.int64(1) << shape)
    sets, of = np.unique(held, return_inverse=True)
    counts = [shapes.union(int(number) for bit, number in enumerate(used) if one >> bit & 1) for one in sets.tolist()]
    return names, np.array(counts, dtype=np.int64)[of]


def _one_by_one(name: Ints, shape: Ints, shapes: Shapes) -> tuple[Ints, Ints]:
    order = np.lexsort((shape, name))
    name, shape = name[order], shape[order]
    names, first = np.unique(name, return_index=True)
    end = np.append(first[1:], len(name))
    total = shapes.counts[shape[first]]
    for at in np.flatnonzero(shape[first] != shape[end - 1]).tolist():
        total[at] = shapes.union(shape[first[at] : end[at]].tolist())
    return names, total
