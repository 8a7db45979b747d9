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
    name = wanted.target * max(1, chunks)
    name += wanted.chunk
    name *= kinds
    name += wanted.kind
    (used,) = np.nonzero(np.bincount(wanted.shape, minlength=1))
    if len(used) <= _BITS:
        bit = np.zeros(int(used.max(initial=0)) + 1, dtype=np.int64)
        bit[used] = np.int64(1) << np.arange(len(used))
        names, total = _by_bits(name, used, bit[wanted.shape], shapes)
    else:
        names, total = _one_by_one(name, wanted.shape, shapes)
    kind, rest = names % kinds, names // kinds
    return Got(rest // max(1, chunks), rest % max(1, chunks), kind, total)


def _by_bits(name: Ints, used: Ints, bits: Ints, shapes: Shapes) -> tuple[Ints, Ints]:
    """Where there are few shapes: the set of those that a rank wants is a number."""
    most = int(name.max(initial=-1)) + 1
    if most <= _DENSE:
        held = np.zeros(most, dtype=np.int64)
        np.bitwise_or.at(held, name, bits)
        names = np.flatnonzero(held)
        held = held[names]
    else:
        names, of = numbered(name)
        held = np.zeros(len(names), dtype=np.int64)
        np.bitwise_or.at(held, of, bits)
    sets, of = numbered(held)
    counts = [shapes.union(int(number) for bit, number in enumerate(used) if one >> bit & 1) for one in sets.tolist()]
    return names, np.array(counts, dtype=np.int64)[of]


def numbered(values: Ints) -> tuple[Ints, Ints]:
    """The unlike ones among numbers from 0 on, in order, and the place of each number among them."""
    if int(values.max(initial=0)) > _DENSE:
        names, of = np.unique(values, return_inverse=True)
        return names, of
    (names,) = np.nonzero(np.bincount(values, minlength=1))
    place = np.zeros(int(names.max(initial=0)) + 1, dtype=np.int64)
    place[names] = np.arange(len(names))
    return names, place[values]


def _one_by_one(name: Ints, shape: Ints, shapes: Shapes) -> tuple[Ints, Ints]:
    order = np.lexsort((shape, name))
    name, shape = name[order], shape[order]
    names, first = np.unique(name, return_index=True)
    end = np.append(first[1:], len(name))
    total = shapes.counts[shape[first]]
    for at in np.flatnonzero(shape[first] != shape[end - 1]).tolist():
        total[at] = shapes.union(shape[first[at] : end[at]].tolist())
    return names, total
