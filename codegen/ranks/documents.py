"""What ranks need of each other where positions lie in documents: no more than these reach, given where they begin.

What a pattern may need whatever documents there are is known before the call; where they begin and end at the chunks of
shards cuts that down, for all pairs of chunks at once. Batch entries differ: what is sent is what any of them needs.

>>> from attnspec.codegen.ranks.shards import shards
>>> Extents.of_offsets(np.array([[0, 5, 8, 16], [0, 2, 2, 16]]), shards("contiguous", 16, 4))
Extents(first=(0, 0, 2, 2), last=(16, 16, 16, 16))
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from attnspec.analysis.states import same_document
from attnspec.codegen.ranks.exact import added, total
from attnspec.codegen.ranks.exchange import exchange
from attnspec.codegen.ranks.parts import Parts
from attnspec.codegen.ranks.patterns import Pattern
from attnspec.codegen.ranks.placed import Cut, Placed, by_bytes
from attnspec.codegen.ranks.planned import Schedule
from attnspec.codegen.ranks.runs import Run, common
from attnspec.codegen.ranks.shapes import Shapes
from attnspec.codegen.ranks.shards import Shards
from attnspec.relation.relation import Relation
from attnspec.spec import expr as e


@dataclass(frozen=True)
class Extents:
    """For each chunk, the begin of the document of its first position, and the end of that of its last one.

    Of all batch entries the least begin and the largest end.
    """

    first: tuple[int, ...]
    last: tuple[int, ...]

    @classmethod
    def of_offsets(cls, offsets: NDArray[np.int64], shards: Shards) -> Extents:
        """From where documents begin, (.., documents + 1), by looking up two positions of each chunk."""
        starts, stops = shards.ends
        rows = offsets.reshape(-1, offsets.shape[-1])
        first = np.min([row[np.searchsorted(row, starts, side="right") - 1] for row in rows], axis=0)
        last = np.max([row[np.searchsorted(row, stops - 1, side="right")] for row in rows], axis=0)
        return cls(tuple(first.tolist()), tuple(last.tolist()))

    @classmethod
    def of_numbers(cls, numbers: NDArray[np.int64], shards: Shards) -> Extents:
        """From the number of the document at each position, (.., n), which never decrease.

        >>> from attnspec.codegen.ranks.shards import shards
        >>> Extents.of_numbers(np.array([0, 0, 3, 3, 3, 7, 7, 9]), shards("contiguous", 8, 4))
        Extents(first=(0, 2, 2, 5), last=(2, 5, 7, 8))
        """
        starts, stops = shards.ends
        rows = numbers.reshape(-1, numbers.shape[-1])
        first = np.min([np.searchsorted(row, row[starts], side="left") for row in rows], axis=0)
        last = np.max([np.searchsorted(row, row[stops - 1], side="right") for row in rows], axis=0)
        return cls(tuple(first.tolist()), tuple(last.tolist()))

    def meet(self, other: Extents) -> Extents:
        """What lies inside both kinds of documents."""
        return Extents(tuple(map(max, self.first, other.first)), tuple(map(min, self.last, other.last)))


def documents(relation: Relation, pattern: Pattern) -> frozenset[str]:
    """The inputs that say in which document a position is, for which a pattern has pairs inside documents alone."""
    part = relation.of_head(0 if pattern.heads is None else pattern.heads[0]).parts[pattern.branch]
    within = part.pred.args if isinstance(part.pred, e.And) else (part.pred,)
    return frozenset(
        atom.left.name
        for atom in within
        if isinstance(atom, e.Cmp) and isinstance(atom.left, e.Read) and same_document(atom)
    )


def restricted(plan: Schedule, extents: Mapping[str, Extents]) -> Schedule:
    """A schedule with what documents leave of it: extents by the names of inputs. Its items may have fewer pairs.

    Parts stay where they were, or go where fewer bytes of each travel, whichever is less in all.
    """
    as_before, by_size = [], []
    known: dict[tuple[int, frozenset[str]], tuple[_Within, _Within]] = {}
    for one in plan.placed:
        names = frozenset(documents(plan.relation, one.pattern) & extents.keys())
        if (id(one.cut), names) not in known:
            mine = tuple(extents[name] for name in sorted(names))
            known[id(one.cut), names] = _Within.of(one.cut, mine), _Within.of(_without_helpers(one.cut), mine)
        same, fresh = known[id(one.cut), names]
        as_before.append(Placed(one.pattern, same, one.moved[same.live]))
        by_size.append(Placed(one.pattern, fresh, by_bytes(one.pattern, fresh, plan.sizes, plan.widths)))
    made = [tuple(as_before), tuple(by_size)]
    shapes = plan.placed[0].cut.shapes
    traffic = [exchange(placed, plan.patterns, plan.shards, shapes, plan.sizes, plan.widths) for placed in made]
    best = min((0, 1), key=lambda number: total(added(*traffic[number].nbytes(backward=False))))
    return replace(plan, placed=made[best], traffic=traffic[best])


@functools.lru_cache(maxsize=64)
def _without_helpers(cut: Cut) -> Cut:
    """The same, with the parts that bytes ask for."""
    return Cut(cut.pairs, cut.shards, cut.shapes, False) if cut.helpers is not None else cut


@dataclass(frozen=True, eq=False)
class _Within(Cut):
    """What documents leave of the parts of a set of pairs."""

    whole: Cut
    extents: tuple[Extents, ...]

    @classmethod
    def of(cls, whole: Cut, extents: tuple[Extents, ...]) -> _Within:
        """Of a set that is cut already."""
        return cls(whole.pairs, whole.shards, whole.shapes, False, whole, extents)

    @cached_property
    def _clipped(self) -> tuple[Parts, NDArray[np.int64]]:
        parts = self.whole.parts
        live = np.arange(len(parts))
        for one in self.extents:
            parts, some = clipped(parts, self.shards, self.shapes, one)
            live = live[some]
        return parts, live

    @property
    def parts(self) -> Parts:
        """Those of unlike chunks."""
        return self._clipped[0]

    @property
    def live(self) -> NDArray[np.int64]:
        """The numbers that the parts had."""
        return self._clipped[1]


def clipped(parts: Parts, shards: Shards, shapes: Shapes, extents: Extents) -> tuple[Parts, NDArray[np.bool_]]:
    """What documents leave of parts, and of which anything. Shapes that are new are added.

    Those of residue shards, whose chunks reach through all documents, stay as they are.
    """
    live = np.ones(len(parts), dtype=bool)
    if not shards.size or not len(parts):
        return parts, live
    first, last = (np.array(x, dtype=np.int64) for x in (extents.first, extents.last))
    back = parts.keeper < parts.asker  # keys before the rows: from the first row's document on; no row behind the last
    none, all_ = np.zeros(len(parts), dtype=np.int64), np.full(len(parts), shards.n)  # key's
    reach = {
        "keys": (np.where(back, first[parts.asker], none), np.where(back, all_, last[parts.asker])),
        "rows": (np.where(back, none, first[parts.keeper]), np.where(back, last[parts.keeper], all_)),
    }
    chunks, columns = (
        {"keys": parts.keeper, "rows": parts.asker},
        {"keys": parts.keys.copy(), "rows": parts.rows.copy()},
    )
    bounds, cut = shapes.bounds, np.zeros(len(parts), dtype=bool)
    for side, (low, high) in reach.items():
        start, stop = (shards.ends[0][chunks[side]] + bounds[columns[side], end] for end in (0, 1))
        live &= np.maximum(start, low) < np.minimum(stop, high)
        cut |= (start < low) | (stop > high)
    for part in np.flatnonzero(cut & live).tolist():
        for side, (low, high) in reach.items():
            chunk = int(chunks[side][part])
            runs = shapes.positions(int(columns[side][part]), shards, chunk)
            inside = common(runs, Run(int(low[part]), int(high[part])))
            live[part] &= bool(inside)
            if inside:
                columns[side][part] = shapes.add_positions(inside, shards, chunk)
    (numbers,) = np.nonzero(live)
    kinds = np.where(cut, len(parts) + np.arange(len(parts)), parts.like)[numbers]
    _, where, of = np.unique(kinds, return_index=True, return_inverse=True)
    return Parts(parts.asker[live], parts.keeper[live], columns["rows"][live], columns["keys"][live], where[of]), live
