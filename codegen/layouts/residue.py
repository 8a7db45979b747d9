"""Positions that agree modulo a number, side by side.

``Residue(r)`` has a sequence of slots for each residue c: slot u of residue c is position ``c + r * u``.

>>> Residue(4).positions(1, 3)
array([1, 5, 9])
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from attnspec.codegen.layouts import comb
from attnspec.codegen.layouts.base import Layout, Proposals
from attnspec.codegen.layouts.comb import MOST_RESIDUES
from attnspec.codegen.tiles import Rectangles, Tile
from attnspec.relation.presburger import Pairs, budget
from attnspec.relation.relation import Part
from attnspec.relation.sizes import Sizes
from attnspec.spec import expr as e

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Residue(Layout):
    """Positions that agree modulo ``modulus`` lie side by side; modulus 1 leaves everything where it is."""

    modulus: int

    tests_tiles = True

    @property
    def residues(self) -> int:
        """How many sequences of slots there are."""
        return self.modulus

    def positions(self, c: int, count: int) -> NDArray[np.int64]:
        """The first positions of residue c."""
        return c + self.modulus * np.arange(count, dtype=np.int64)

    def universe(self) -> Pairs:
        """All pairs that tiles of this layout can hold."""
        return Pairs.read(f"y >= 0 and (x - y) mod {self.modulus} = 0" if self.modulus > 1 else "y >= 0")

    def _tiles(self, pairs: Pairs, tile: Tile) -> Pairs:
        view = pairs.residue(self.modulus) if self.modulus > 1 else pairs
        return view.tiles(tile.rows, tile.columns)

    def key_bounds(self, columns: int) -> str:
        """Which key tiles ``y`` hold a key of the call."""
        return f"y >= 0 and {self.modulus * columns} * y + c < n"

    def whole(self, columns: int) -> str:
        """Which key tiles ``y`` hold nothing but keys of the call."""
        return f"{self.modulus * columns} * y + {self.modulus * (columns - 1)} + c < n"

    def key_slots(self, sizes: Sizes, c: int, columns: int) -> range:
        """The slots that hold the keys of a call."""
        held = sizes.held
        return self.slots_of(held.k_start, held.keys, c)

    def __str__(self) -> str:
        return "identity" if self.modulus == 1 else f"residue({self.modulus})"


IDENTITY = Residue(1)


def proposals(part: Part, tile: Tile, grids: tuple[Rectangles, ...]) -> Proposals:
    """The modulus by which query and key agree in all pairs, if no comb says more of them. Raises TooHard."""
    with budget(part.pairs):
        modulus = part.pairs.stride()
    if 1 < modulus <= MOST_RESIDUES and not any(comb.proposals(part, tile, grids)):
        yield Residue(modulus), tile


def splits(preds: Sequence[e.Pred], sets: Sequence[Pairs]) -> Iterator[tuple[Layout, list[int]]]:
    """Layouts for some of the terms of a union, given by their places, that agree by a modulus. Raises TooHard."""
    with budget(*sets):
        strides = [pairs.stride() for pairs in sets]
    for modulus in sorted({r for r in strides if 1 < r <= MOST_RESIDUES}):
        yield Residue(modulus), [i for i, r in enumerate(strides) if r % modulus == 0]
