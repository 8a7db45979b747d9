"""What a layout cuts, and into what: a region of pairs, and the tiles that hold it."""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.relation.presburger import Pairs
from attnspec.spec import expr as e


@dataclass(frozen=True, eq=False)
class Region:
    """Pairs that one pass computes: as a predicate, and as the sets of those that are possible and certain.

    ``branch`` is the softmax that they belong to, in which each counts ``times`` times.
    """

    title: str
    pred: e.Pred
    pairs: Pairs
    sure: Pairs
    branch: int = 0
    times: int = 1


@dataclass(frozen=True, eq=False)
class Tiles:
    """Tiles of a region in a layout: full ones, those that are full if the inputs allow, and partial ones.

    ``proven`` is False where the solver's budget did not suffice to tell full from partial tiles.
    """

    full: Pairs
    maybe: Pairs
    partial: Pairs
    proven: bool

    @property
    def kinds(self) -> tuple[Pairs, Pairs, Pairs]:
        """The three sets."""
        return self.full, self.maybe, self.partial
