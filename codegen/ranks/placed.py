"""Where parts are computed: at the rank that has the queries, or at the one that has the keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from attnspec.codegen.ranks.exact import Counts, product, sums
from attnspec.codegen.ranks.helpers import helped
from attnspec.codegen.ranks.needs import Ints
from attnspec.codegen.ranks.parts import Parts, parts
from attnspec.codegen.ranks.patterns import Pattern
from attnspec.codegen.ranks.runs import Runs
from attnspec.codegen.ranks.shapes import Shapes
from attnspec.codegen.ranks.shards import Shards
from attnspec.codegen.ranks.traffic import Widths
from attnspec.codegen.ranks.work import local_pairs, part_pairs
from attnspec.relation.presburger import Pairs
from attnspec.relation.sizes import Sizes


@dataclass(frozen=True, eq=False)
class Cut:
    """A set of pairs cut at chunks: its parts across chunks, and how many pairs there are in them and in chunks."""

    pairs: Pairs
    shards: Shards
    shapes: Shapes
    help: bool

    @cached_property
    def _parts(self) -> tuple[Parts, NDArray[np.bool_] | None]:
        found = parts(self.pairs, self.shards, self.shapes)
        return (self.help and helped(found, self.shards, self.shapes)) or (found, None)

    @property
    def parts(self) -> Parts:
        """Those of unlike chunks."""
        return self._parts[0]

    @property
    def helpers(self) -> NDArray[np.bool_] | None:
        """Which parts are computed where the keys are, so that ranks compute alike; None where bytes decide."""
        return self._parts[1]

    @cached_property
    def part_pairs(self) -> Counts:
        """How many pairs each part has, of one head."""
        return part_pairs(self.pairs, self.parts, self.shapes, self.shards)

    @cached_property
    def local_pairs(self) -> Counts:
        """How many pairs each chunk has with itself, of one head."""
        return local_pairs(self.pairs, self.shards)

    def runs(self, part: int) -> tuple[Runs, Runs]:
        """The rows and the keys of a part."""
        found = self.parts
        rows = self.shapes.positions(int(found.rows[part]), self.shards, int(found.asker[part]))
        return rows, self.shapes.positions(int(found.keys[part]), self.shards, int(found.keeper[part]))


@dataclass(frozen=True, eq=False)
class Placed:
    """The parts of a pattern across chunks; ``moved`` are those whose queries travel to the rank that has the keys."""

    pattern: Pattern
    cut: Cut
    moved: NDArray[np.bool_]

    @property
    def parts(self) -> Parts:
        """The parts, moved or not."""
        return self.cut.parts

    @cached_property
    def asker(self) -> Ints:
        """The rank that has the queries of each part."""
        return self.cut.shards.owner[self.parts.asker]

    @cached_property
    def keeper(self) -> Ints:
        """The rank that has its keys."""
        return self.cut.shards.owner[self.parts.keeper]

    @cached_property
    def place(self) -> Ints:
        """The rank that computes it."""
        return np.where(self.moved, self.keeper, self.asker) if self.moved.any() else self.asker

    @cached_property
    def other(self) -> Ints:
        """The rank that sends for it."""
        return np.where(self.moved, self.asker, self.keeper) if self.moved.any() else self.keeper

    @cached_property
    def pairs(self) -> Counts:
        """How many pairs each part has, over the heads."""
        return product(self.cut.part_pairs, self.pattern.count)

    @cached_property
    def local(self) -> Counts:
        """How many pairs each chunk has with itself, over the heads."""
        return product(self.cut.local_pairs, self.pattern.count)


def placed(
    patterns: Sequence[Pattern], shards: Shards, shapes: Shapes, sizes: Sizes, widths: Widths, help_: bool
) -> tuple[Placed, ...]:
    """Each part where fewer bytes travel forward: its keys and values, or its queries and what they give.

    But queries stay where they would make the busiest rank busier. With ``help_`` causal attention over contiguous
    shards is balanced instead (:mod:`attnspec.codegen.ranks.helpers`).
    """
    cut: dict[int, Cut] = {}
    made = []
    for pattern in patterns:
        if id(pattern.pairs) not in cut:
            cut[id(pattern.pairs)] = Cut(pattern.pairs, shards, shapes, help_)
        mine = cut[id(pattern.pairs)]
        moved = by_bytes(pattern, mine, sizes, widths) if mine.helpers is None else mine.helpers
        made.append(Placed(pattern, mine, moved))
    return balanced(made, shards.ranks)


def balanced(made: Sequence[Placed], ranks: int) -> tuple[Placed, ...]:
    """The same without the moves after which a rank would compute more than the busiest does without any.

    A hundredth above the mean is allowed: there a move is worth its bytes.
    """
    by_choice = [one.cut.helpers is None and bool(one.moved.any()) for one in made]
    if not any(by_choice):
        return tuple(made)
    work = [0] * ranks
    for one, free in zip(made, by_choice, strict=True):
        own = sums(one.cut.shards.owner, one.local, ranks)
        away = sums(one.asker if free else one.place, one.pairs, ranks)
        work = [w + int(a) + int(b) for w, a, b in zip(work, own, away, strict=True)]
    most = max(max(work), 101 * sum(work) // (100 * ranks))
    found = []
    for one, free in zip(made, by_choice, strict=True):
        moved = one.moved.copy()
        for part in np.flatnonzero(moved).tolist() if free else ():
            asker, keeper, pairs = int(one.asker[part]), int(one.keeper[part]), int(one.pairs[part])
            if work[keeper] + pairs > most:
                moved[part] = False
                continue
            work[asker] -= pairs
            work[keeper] += pairs
        found.append(replace(one, moved=moved))
    return tuple(found)


def by_bytes(pattern: Pattern, cut: Cut, sizes: Sizes, widths: Widths) -> NDArray[np.bool_]:
    """Of which parts fewer bytes travel forward if the queries do."""
    owner = cut.shards.owner
    first = 0 if pattern.heads is None else pattern.heads[0]
    key_heads = -(-(first + pattern.count) // sizes.group) - first // sizes.group
    parts_, counts = cut.parts, cut.shapes.counts  # in this order: parts add their shapes
    rows = product(counts, pattern.count * (widths.query + widths.result))
    keys = product(counts, key_heads * widths.key)
    found: NDArray[np.bool_] = rows[parts_.rows] < keys[parts_.keys]
    found &= owner[parts_.asker] != owner[parts_.keeper]
    return found
