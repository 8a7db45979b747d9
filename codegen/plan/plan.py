"""Which tiles of the score matrix a kernel visits, and in what loops: one plan for every length.

A plan has passes, whose softmaxes are merged by log-sum-exp. Each has a layout: a tile ``(i, j)`` covers the queries in
the slots ``i * rows`` up to ``(i + 1) * rows`` and the keys in the slots ``j * columns`` up to ``(j + 1) * columns``.
Tiles are cut on positions, not on rows, so a plan does not depend on the number of queries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnspec.codegen.layouts.comb import Comb
from attnspec.codegen.layouts.residue import IDENTITY, Columns, Grid, Layout, Slots, tiles_of
from attnspec.relation.loops import Loops
from attnspec.relation.presburger import Pairs
from attnspec.relation.relation import Relation
from attnspec.relation.sizes import Sizes
from attnspec.spec import expr as e
from attnspec.spec.evaluate import holds

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from attnspec.codegen.plan.tile_tests import Tests

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
    """The tiles of one query tile (forward) or one key tile (backward).

    ``full`` need no mask, ``partial`` evaluate it, ``maybe`` are full if what the inputs leave open holds in all of the
    tile. None where the closed form is unwieldy: the kernel then reads a table that is built for each length.
    """

    full: Loops | None
    maybe: Loops | None
    partial: Loops | None

    @property
    def tabled(self) -> bool:
        """Whether the kernel reads a table."""
        return self.full is None or self.maybe is None or self.partial is None


@dataclass(frozen=True, eq=False)
class Pass:
    """A set of pairs, cut into tiles in one layout.

    ``pred`` are its pairs as partial tiles evaluate them, ``pairs`` those that are possible and ``sure`` those that are
    certain; ``full``, ``maybe`` and ``partial`` the sets of tiles, for the residue ``c`` of the layout. ``proven`` is
    False where the solver's budget did not suffice to tell full from partial tiles. ``branch`` is the softmax that the
    pass belongs to, each of whose pairs counts ``times`` times.
    """

    title: str
    branch: int
    times: int
    pred: e.Pred
    pairs: Pairs
    sure: Pairs
    layout: Layout
    tile: Tile
    full: Pairs
    maybe: Pairs
    partial: Pairs
    proven: bool
    tests: Tests
    forward: Sweep
    backward: Sweep

    @property
    def tabled(self) -> bool:
        """Whether a kernel reads tables for this pass."""
        return self.forward.tabled or self.backward.tabled

    def query_tiles(self, sizes: Sizes, c: int = 0) -> range:
        """The query tiles that hold a row of the call."""
        return tiles_of(self.layout.query_slots(sizes, c, self.tile.rows), self.tile.rows)

    def key_tiles(self, sizes: Sizes, c: int = 0) -> range:
        """The key tiles that hold a key of the call."""
        return tiles_of(self.layout.key_slots(sizes, c, self.tile.columns), self.tile.columns)

    def visits(self, sizes: Sizes, h: int, b: int, c: int, transposed: bool = False) -> Iterator[tuple[int, int, bool]]:
        """The tiles (i, j) of one residue of one head, and whether each is full; ``maybe`` ones count as partial."""
        from attnspec.codegen.plan.table import table

        sweep = self.backward if transposed else self.forward
        outer, name = (self.key_tiles(sizes, c), "j") if transposed else (self.query_tiles(sizes, c), "i")
        if sweep.full is None or sweep.maybe is None or sweep.partial is None:
            lists = table(self, sizes, h, b, transposed)
            found = ((o, t, full) for row, o in enumerate(outer) for t, full in lists.row(row))
        else:
            kinds = ((sweep.full, True), (sweep.maybe, False), (sweep.partial, False))
            env = {**sizes.parameters(h, b), "c": c, "lo": -(1 << 40), "hi": 1 << 40}
            found = ((o, t, full) for o in outer for loops, full in kinds for t in loops.points({**env, name: o}))
        for o, t, full in found:
            yield (t, o, full) if transposed else (o, t, full)


@dataclass(frozen=True)
class Candidate:
    """A way to cut a branch into passes: its text, and what it costs at the length for which ways were compared."""

    text: str
    pairs: int
    computed: int
    tiles: int
    cost: float

    @property
    def waste(self) -> float:
        """Computed pairs for each live one."""
        return self.computed / self.pairs if self.pairs else 1.0


@dataclass(frozen=True)
class Choice:
    """The ways that were compared for one branch, at which length, and which of them won."""

    n: int
    candidates: tuple[Candidate, ...]
    chosen: int

    def __str__(self) -> str:
        lines = [f"chosen at n = {self.n:,}, by estimated time:"]
        for number, item in enumerate(self.candidates):
            mark = "->" if number == self.chosen else "  "
            lines.append(f"{mark} {item.text}: waste {item.waste:.2f}, {item.tiles:,} tiles, cost {item.cost:.3g}")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class ClassPlan:
    """The passes of one class of heads; ``choices`` say why, for each branch (None where there was one way only)."""

    heads: tuple[int, ...] | None
    passes: tuple[Pass, ...]
    choices: tuple[Choice | None, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """The tiles that a kernel visits for a relation."""

    relation: Relation
    classes: tuple[ClassPlan, ...]

    def of_head(self, h: int) -> ClassPlan:
        """The plan of a head's class."""
        return self.classes[self.relation.classes.index(self.relation.of_head(h))]

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The passes of all classes."""
        return tuple(item for plan in self.classes for item in plan.passes)

    @property
    def tabled(self) -> bool:
        """Whether a kernel of this plan reads tables."""
        return any(item.tabled for item in self.passes)

    @property
    def carry(self) -> bool:
        """Whether passes add to results that are there already, and not each row is written once by one pass."""
        several = any(len(item.passes) > 1 for item in self.classes)
        layouts = {(item.layout, item.tile) for item in self.passes}
        listed = (Columns, Slots) if len(self.classes) == 1 else (Columns, Slots, Grid, Comb)
        scattered = len(layouts) > 1 or any(isinstance(layout, listed) for layout, _ in layouts)
        return several or scattered or self.relation.spec.sink is not None

    @property
    def plain(self) -> bool:
        """Whether a kernel needs nothing at a call but the tensors: no tables, no lists of positions."""
        return not self.tabled and not any(any(p.layout.listed) for p in self.passes)

    def counts(
        self, sizes: Sizes, transposed: bool = False, inputs: Mapping[str, Any] | None = None
    ) -> NDArray[np.int64]:
        """How often a kernel counts each pair, (batch, heads, n_q, n): full tiles whole, partial ones by predicate.

        ``transposed`` walks the loops of the backward pass.
        """
        import numpy as np

        out = np.zeros((sizes.batch, sizes.heads, sizes.n_q, sizes.n), dtype=np.int64)
        for b in range(sizes.batch):
            for h in range(sizes.heads):
                for item in self.of_head(h).passes:
                    _add(item, out[b, h], sizes, h, b, transposed, inputs or {})
        return out

    def mask(self, sizes: Sizes, transposed: bool = False) -> NDArray[Any]:
        """The same as a mask: bool, or integers where there is a mixture."""
        counts = self.counts(sizes, transposed)
        return counts if self.relation.spec.mixture else counts.astype(bool)

    def __str__(self) -> str:
        lines = [f"plan {self.relation.spec.name}"]
        for item in self.classes:
            who = "all heads" if item.heads is None else f"heads {', '.join(map(str, item.heads))}"
            lines.append(f"{who}:")
            for choice in filter(None, item.choices):
                lines += [f"    {line}" for line in str(choice).splitlines()]
            for number, one in enumerate(item.passes):
                lines += [f"    {line}" for line in _lines(one, number)]
        return "\n".join(lines)


def _add(
    item: Pass, out: NDArray[np.int64], sizes: Sizes, h: int, b: int, transposed: bool, inputs: Mapping[str, Any]
) -> None:
    env = {**inputs, **sizes.parameters(h, b)}
    for c in range(item.layout.residues):
        for i, j, full in item.visits(sizes, h, b, c, transposed):
            q = item.layout.query_positions(i, sizes, c, item.tile.rows)
            k = item.layout.key_positions(j, sizes, c, item.tile.columns)
            if full:
                out[(q - sizes.first)[:, None], k[None, :]] += item.times
            else:
                allowed = holds(item.pred, {**env, "q": q[:, None], "k": k[None, :]})
                out[(q - sizes.first)[:, None], k[None, :]] += item.times * allowed


def _lines(item: Pass, number: int) -> Iterator[str]:
    layout = "" if item.layout == IDENTITY else f", layout {item.layout}"
    branch = f", branch {item.branch}" if item.branch else ""
    often = f", counted {item.times} times" if item.times > 1 else ""
    yield f"pass {number}{branch}{often}: {item.title}; tiles of {item.tile} (queries x keys){layout}"
    if not item.proven:
        yield "    full tiles not proven within the solver's budget"
    if item.layout.residues > 1:
        r = item.layout.residues
        yield f"    for each residue c in 0 .. {r - 1}, tiles of the positions c, c + {r}, c + {2 * r}, ..."
    yield from (f"    {line}" for line in item.tests.lines())
    for title, sweep in (("forward, for query tile i", item.forward), ("backward, for key tile j", item.backward)):
        yield f"    {title}:"
        for kind, loops in (("full", sweep.full), ("full if inputs allow", sweep.maybe), ("partial", sweep.partial)):
            if loops is not None and not loops.body and kind != "full":
                continue
            text = "a table, built for each length" if loops is None else str(loops)
            yield f"        {kind}:"
            yield from (f"            {line}" for line in text.splitlines())
