"""Some keys of each period, gathered: where all queries look at the same few columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from attnspec.codegen.layouts.base import Layout, Listing, Lists, Proposals
from attnspec.codegen.tiles import Rectangles, Tile
from attnspec.relation.count import runs
from attnspec.relation.presburger import Pairs, budget
from attnspec.relation.relation import Part
from attnspec.relation.sizes import Sizes
from attnspec.spec import contents
from attnspec.spec import expr as e

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_COLUMNS = 4096


@dataclass(frozen=True)
class Columns(Layout):
    """Queries in order; of the keys only those with ``first <= k % period < first + width``, gathered side by side."""

    period: int
    first: int
    width: int

    listed = (False, True)
    scattered = True

    def universe(self) -> Pairs:
        """All pairs that tiles of this layout can hold."""
        return Pairs.read(f"y >= 0 and {self.first} <= y mod {self.period} < {self.first + self.width}")

    def _tiles(self, pairs: Pairs, tile: Tile) -> Pairs:
        slot = f"{self.width} * floor(y / {self.period}) + (y mod {self.period}) - {self.first}"
        return pairs.intersection(self.universe()).image(f"floor(x / {tile.rows})", f"floor(({slot}) / {tile.columns})")

    def key_bounds(self, columns: int) -> str:
        """Which key tiles ``y`` hold a key of the call."""
        slot = f"({columns} * y)"
        return f"y >= 0 and {self.period} * floor({slot} / {self.width}) + ({slot} mod {self.width}) + {self.first} < n"

    def whole(self, columns: int) -> str:
        """Which key tiles ``y`` hold nothing but keys of the call."""
        slot = f"({columns} * y + {columns - 1})"
        return f"{self.period} * floor({slot} / {self.width}) + ({slot} mod {self.width}) + {self.first} < n"

    def key_slots(self, sizes: Sizes, c: int, columns: int) -> range:
        """The slots that hold the keys of a call."""
        held = sizes.held
        return range(self._before(held.k_start), self._before(held.k_start + held.keys))

    def _before(self, position: int) -> int:
        """How many keys before a position have a slot."""
        whole, rest = divmod(position, self.period)
        return whole * self.width + min(self.width, max(0, rest - self.first))

    def key_positions(self, tile: int, sizes: Sizes, c: int, columns: int) -> NDArray[np.int64]:
        """The positions of the keys in a tile."""
        slots = super().key_positions(tile, sizes, c, columns)
        return slots // self.width * self.period + slots % self.width + self.first

    def lists(self, sizes: Sizes, rows: int, columns: int) -> Lists:
        """The positions of the keys."""
        held = self.key_slots(sizes, 0, 1)
        slots = np.arange(held.start, held.stop, dtype=np.int64)
        return None, Listing(
            held.start, slots // self.width * self.period + slots % self.width + self.first, len(slots)
        )

    def __str__(self) -> str:
        if self.width == 1:
            return f"columns(k % {self.period} == {self.first})"
        return f"columns({self.first} <= k % {self.period} < {self.first + self.width})"


def proposals(part: Part, tile: Tile, grids: tuple[Rectangles, ...]) -> Proposals:
    """The columns that hold all pairs. Raises TooHard."""
    columns = _columns(part.pred, part.pairs) if part.exact else None
    if columns is not None:
        yield columns, tile


def splits(preds: Sequence[e.Pred], sets: Sequence[Pairs]) -> Iterator[tuple[Layout, list[int]]]:
    """Layouts for single terms of a union, given by their places. Raises TooHard."""
    for i, (pred, pairs) in enumerate(zip(preds, sets, strict=True)):
        columns = _columns(pred, pairs)
        if columns is not None:
            yield columns, [i]


def _columns(pred: e.Pred, pairs: Pairs) -> Columns | None:
    """The layout that gathers the keys of a term, if they are few of each period."""
    moduli = {
        node.right.value for node in contents.walk(pred) if isinstance(node, e.Mod) and isinstance(node.right, e.Int)
    }
    for period in sorted(moduli, reverse=True):
        if not 2 <= period <= _MOST_COLUMNS:
            continue
        with budget(pairs):
            residues = pairs.image("0", f"y mod {period}").anonymous().pieces()
        held = sorted(
            int(y)
            for run in runs(residues, 1)
            for low, high in zip(run.low, run.high, strict=True)
            for y in range(low, high + 1, run.step)
        )
        if held and len(held) < period and held[-1] - held[0] + 1 == len(held):
            return Columns(period, held[0], len(held))
    return None
