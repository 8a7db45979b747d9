"""The places of an order that is computed from inputs."""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.codegen.layouts.base import Layout
from attnspec.codegen.tiles import Tile
from attnspec.relation.presburger import Pairs
from attnspec.relation.sizes import Sizes


@dataclass(frozen=True)
class Slots(Layout):
    """The places of a computed order: the queries of one round, and the keys of all rounds.

    Positions are these places; they become positions of the call by the order, which a kernel reads.
    """

    round: int
    rounds: int

    listed = (True, True)
    scattered = True
    tests_tiles = True

    @property
    def order(self) -> tuple[int, int]:
        """The round of the queries, and how many rounds there are."""
        return self.round, self.rounds

    def _tiles(self, pairs: Pairs, tile: Tile) -> Pairs:
        return pairs.tiles(tile.rows, tile.columns)  # these are pairs of slots

    def key_bounds(self, columns: int) -> str:
        """Which key tiles ``y`` hold a slot of the call."""
        return f"y >= 0 and {columns} * y < {self.rounds} * n"

    def whole(self, columns: int) -> str:
        """Which key tiles ``y`` hold nothing but slots of the call."""
        return f"{columns} * y + {columns - 1} < {self.rounds} * n"

    def query_bounds(self, rows: int, first: str) -> str:
        """Which query tiles ``x`` hold a slot of the round."""
        return f"{rows} * x + {rows - 1} >= {self.round} * n and {rows} * x < {self.round + 1} * n"

    def query_slots(self, sizes: Sizes, c: int, rows: int) -> range:
        """The slots of the round."""
        return range(self.round * sizes.n, (self.round + 1) * sizes.n)

    def key_slots(self, sizes: Sizes, c: int, columns: int) -> range:
        """All slots."""
        return range(self.rounds * sizes.n)

    def __str__(self) -> str:
        return f"slots of round {self.round}"
