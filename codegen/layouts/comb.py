"""The layout of LongNet's branches: within each segment, every rate-th position.

Where the rate divides the segment this is a residue layout; where it does not, residues begin anew in each segment, and
slots are listed. The slots of a segment fill whole tiles; those that hold no position are at the end of the last one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from attnspec.codegen.layouts.base import Proposals
from attnspec.codegen.layouts.listed import EMPTY, Listed, most_tiles
from attnspec.codegen.layouts.region import Region, Tiles
from attnspec.codegen.tiles import Rectangles, Tile
from attnspec.relation.condition import condition
from attnspec.relation.presburger import Pairs, TooHard, budget
from attnspec.relation.relation import Part
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.rewrite import replace

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_RESIDUES = 4096
"""Residues beyond which each would hold too few positions to fill a tile."""


@dataclass(frozen=True)
class Comb(Listed):
    """Slot ``M * s + a`` of residue c is position ``segment * s + rate * a + c``; M, ``room``, holds whole tiles."""

    segment: int
    rate: int
    room: int

    @classmethod
    def of(cls, segment: int, rate: int, tile: int) -> Comb:
        """With room for whole tiles of ``tile`` slots."""
        held = -(-segment // rate)
        return cls(segment, rate, -(-held // tile) * tile)

    @property
    def residues(self) -> int:
        """How many sequences of slots there are."""
        return self.rate

    def universe(self) -> Pairs:
        """All pairs of positions that tiles of this layout can hold."""
        return Pairs.read(f"y >= 0 and (x mod {self.segment}) mod {self.rate} = (y mod {self.segment}) mod {self.rate}")

    def all_slots(self) -> Pairs:
        """All pairs of slots of a residue that hold positions."""
        x, y = (f"{self.rate} * ({name} mod {self.room}) + c < {self.segment}" for name in ("x", "y"))
        return Pairs.read(f"y >= 0 and {self.known()} and {x} and {y}")

    def slots(self, pred: e.Pred) -> Pairs:
        """The pairs of slots of a residue for whose positions a predicate holds.

        By substitution, which leaves the solver an easier question than a change of variables would.
        Raises NotAffine where the predicate is not affine, TooHard where it is too irregular.
        """
        table: dict[e.Node, e.Node] = {}
        w, r, room = e.Int(self.segment), e.Int(self.rate), e.Int(self.room)
        for name in ("q", "k"):
            x, c = e.Var(name), e.Var("c")
            inside = e.Add((e.Mul(r, e.Mod(x, room)), c))
            table |= {
                e.Mod(e.Mod(x, w), r): c,
                e.FloorDiv(x, w): e.FloorDiv(x, room),
                e.Mod(x, w): inside,
                x: e.Add((e.Mul(w, e.FloorDiv(x, room)), inside)),
            }
        text = condition(replace(pred, table)).text
        return Pairs.read(f"y >= 0 and ({text})").intersection(self.all_slots())

    def cut(self, region: Region, tile: Tile) -> Tiles:
        """Tell full from partial tiles; the set of slots follows from the predicate. Raises TooHard and NotAffine."""
        with budget(region.pairs):
            slots = self.slots(region.pred)
        with budget(slots):
            touched = slots.tiles(tile.rows, tile.columns)
            full = touched.difference(self.all_slots().difference(slots).tiles(tile.rows, tile.columns))
            return Tiles(full, Pairs.read("false"), touched.difference(full), True)

    def key_bounds(self, columns: int) -> str:
        """Which key tiles ``y`` hold a key of the call."""
        at, inside = self._corner("y", columns)
        return f"y >= 0 and {inside} < {self.segment} and {at} < n"

    def whole(self, columns: int) -> str:
        """Which key tiles ``y`` hold nothing but keys of the call."""
        at, inside = self._corner("y", columns)
        reach = self.rate * (columns - 1)
        return f"{inside} + {reach} < {self.segment} and {at} + {reach} < n"

    def query_bounds(self, rows: int, first: str) -> str:
        """Which query tiles ``x`` may hold a query of the call; ``first`` is the position of row 0."""
        at, inside = self._corner("x", rows)
        return f"{inside} < {self.segment} and {at} < {first} + n_q and {at} + {self.rate * (rows - 1)} >= {first}"

    def _corner(self, name: str, size: int) -> tuple[str, str]:
        """The first position of a tile, and how far it lies inside its segment."""
        slot = f"({size} * {name})"
        inside = f"{self.rate} * ({slot} mod {self.room}) + c"
        return f"{self.segment} * floor({slot} / {self.room}) + {inside}", inside

    def slots_around(self, side: int, low: int, high: int) -> range:
        """The slots of whole segments."""
        return range(low // self.segment * self.room, ((high - 1) // self.segment + 1) * self.room)

    def slots_between(self, side: int, low: int, high: int) -> range:
        """Of the first and the last segment those that reach the positions."""
        (first, before), (last, within) = divmod(low, self.segment), divmod(high - 1, self.segment)
        return range(first * self.room + before // self.rate, last * self.room + within // self.rate + 1)

    def places(self, side: int, slots: NDArray[np.int64], c: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """The beginning of the slot's segment, and from there every rate-th position."""
        inside = slots % self.room * self.rate + c
        return np.where(inside < self.segment, slots // self.room * self.segment + inside, EMPTY)

    def block(self, tile: Tile) -> tuple[int, int, int]:
        """A segment."""
        return self.segment, self.room // tile.rows, self.room // tile.columns

    def cut_tiles(self, tiles: range, side: int) -> int:
        """All: the last tile of every segment may be cut."""
        return most_tiles(tiles)

    def __str__(self) -> str:
        return f"comb(every {self.rate}-th of segments of {self.segment})"


def proposals(part: Part, tile: Tile, grids: tuple[Rectangles, ...]) -> Proposals:
    """Combs that hold all pairs, by segments and rates of ``q % segment % rate``; residues do, where rates divide."""
    for segment, rate in _combs(part.pred):
        comb = Comb.of(segment, rate, tile.rows)
        try:
            with budget(part.pairs):
                fits = part.pairs.within(comb.universe())
        except TooHard:
            continue
        if fits and part.exact and comb.room % tile.columns == 0:
            yield comb, tile


def _combs(pred: e.Node) -> list[tuple[int, int]]:
    """Segments and rates of ``q % segment % rate``, where the rate does not divide the segment."""
    found: set[tuple[int, int]] = set()
    for node in contents.walk(pred):
        match node:
            case e.Mod(e.Mod(_, e.Int(segment)), e.Int(rate)) if (
                1 < rate < segment and rate <= MOST_RESIDUES and segment % rate
            ):
                found.add((segment, rate))
    return sorted(found)
