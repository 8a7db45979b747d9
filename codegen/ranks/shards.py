"""Which positions each rank holds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from attnspec.codegen.ranks.runs import Runs, count
from attnspec.spec.writing import Shown


@dataclass(frozen=True)
class Shards(Shown):
    """The positions of a sequence of ``n``, dealt out: ``held[rank]`` are a rank's runs, in the order of its rows.

    Every rank has :attr:`rows` rows of its tensors; those behind its positions are padding, which sees nothing and
    which nothing sees. ``kind`` says how they were dealt: contiguous, zigzag, residue, grid or greedy.
    """

    kind: str
    n: int
    held: tuple[Runs, ...]

    @property
    def ranks(self) -> int:
        """How many ranks there are."""
        return len(self.held)

    @cached_property
    def rows(self) -> int:
        """The rows of each rank's tensors."""
        return max(map(count, self.held), default=0)

    def __str__(self) -> str:
        return f"{self.kind} shards of {self.rows:,} positions"
