"""Which tiles of the score matrix a kernel visits, and in what loops: one plan for every length.

A tile ``(i, j)`` covers the query positions ``i * rows`` up to ``(i + 1) * rows`` and the keys ``j * columns`` up to
``(j + 1) * columns``. Tiles are cut on positions, not on rows, so a plan does not depend on the number of queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnspec.evaluate import holds
from attnspec.loops import Loops
from attnspec.presburger import Pairs
from attnspec.relation import Relation
from attnspec.sizes import Sizes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

UNWIELDY = 2000
"""Nodes from which on a loop nest is replaced by a table of tiles that is built for each length."""


@dataclass(frozen=True)
class Tile:
    """The size of a tile: query positions by keys."""

    rows: int
    columns: int

    def __str__(self) -> str:
        return f"{self.rows} x {self.columns}"


@dataclass(frozen=True)
class Sweep:
    """The tiles of one query tile (forward) or one key tile (backward): ``full`` need no mask, ``partial`` evaluate it.

    None where the closed form is unwieldy: the kernel then reads a table that is built for each length.
    """

    full: Loops | None
    partial: Loops | None

    @property
    def tabled(self) -> bool:
        """Whether the kernel reads a table."""
        return self.full is None or self.partial is None


@dataclass(frozen=True, eq=False)
class ClassPlan:
    """The plan of one class of heads: the sets of tiles, and the loops over them in both directions.

    ``proven`` is False where the solver's budget did not suffice to tell full from partial tiles; all are then partial.
    """

    heads: tuple[int, ...] | None
    full: Pairs
    partial: Pairs
    proven: bool
    forward: Sweep
    backward: Sweep


@dataclass(frozen=True, eq=False)
class Plan:
    """The tiles that a kernel visits for a relation."""

    relation: Relation
    tile: Tile
    classes: tuple[ClassPlan, ...]

    def of_head(self, h: int) -> ClassPlan:
        """The plan of a head's class."""
        return self.classes[self.relation.classes.index(self.relation.of_head(h))]

    @property
    def tabled(self) -> bool:
        """Whether a kernel of this plan reads tables."""
        return any(item.forward.tabled or item.backward.tabled for item in self.classes)

    def query_tiles(self, sizes: Sizes) -> range:
        """The query tiles that hold a row of the call."""
        if not sizes.n_q:
            return range(0)
        return range(sizes.first // self.tile.rows, (sizes.first + sizes.n_q - 1) // self.tile.rows + 1)

    def key_tiles(self, sizes: Sizes) -> range:
        """The key tiles that hold a key of the call."""
        return range(-(-sizes.n // self.tile.columns))

    def mask(self, sizes: Sizes, transposed: bool = False) -> NDArray[np.bool_]:
        """What a kernel lets through, (batch, heads, n_q, n), bool: full tiles whole, partial ones by their predicate.

        ``transposed`` walks the loops of the backward pass.
        """
        import numpy as np

        out = np.zeros((sizes.batch, sizes.heads, sizes.n_q, sizes.n), dtype=bool)
        for b in range(sizes.batch):
            for h in range(sizes.heads):
                for i, j, full in self._visits(sizes, h, b, transposed):
                    rows = slice(max(0, i * self.tile.rows - sizes.first), (i + 1) * self.tile.rows - sizes.first)
                    columns = slice(j * self.tile.columns, (j + 1) * self.tile.columns)
                    part = out[b, h, rows, columns]
                    if not full:
                        q = np.arange(sizes.n_q, dtype=np.int64)[rows, None] + sizes.first
                        k = np.arange(sizes.n, dtype=np.int64)[None, columns]
                        part[...] = holds(self.relation.spec.pred, {**sizes.parameters(h, b), "q": q, "k": k})
                    else:
                        part[...] = True
        return out

    def _visits(self, sizes: Sizes, h: int, b: int, transposed: bool) -> Iterator[tuple[int, int, bool]]:
        from attnspec.codegen.table import table

        plan = self.of_head(h)
        sweep = plan.backward if transposed else plan.forward
        outer, name = (self.key_tiles(sizes), "j") if transposed else (self.query_tiles(sizes), "i")
        if sweep.full is None or sweep.partial is None:
            lists = table(self, sizes, h, b, transposed)
            visits = ((o, o_t, full) for row, o in enumerate(outer) for o_t, full in lists.row(row))
        else:
            full_loops, partial_loops = sweep.full, sweep.partial
            env = sizes.parameters(h, b)
            visits = (
                (o, t, full)
                for o in outer
                for loops, full in ((full_loops, True), (partial_loops, False))
                for t in loops.points({**env, name: o})
            )
        for o, t, full in visits:
            yield (t, o, full) if transposed else (o, t, full)

    def __str__(self) -> str:
        lines = [f"plan {self.relation.spec.name}: tiles of {self.tile} (query positions x keys)"]
        for item in self.classes:
            who = "all heads" if item.heads is None else f"heads {', '.join(map(str, item.heads))}"
            lines.append(f"{who}:" if item.proven else f"{who} (full tiles not proven within the solver's budget):")
            for title, sweep in (
                ("forward, for query tile i", item.forward),
                ("backward, for key tile j", item.backward),
            ):
                lines.append(f"    {title}:")
                for kind, loops in (("full", sweep.full), ("partial", sweep.partial)):
                    text = "a table, built for each length" if loops is None else str(loops)
                    lines += [f"        {kind}:", *(f"            {line}" for line in text.splitlines())]
        return "\n".join(lines)
