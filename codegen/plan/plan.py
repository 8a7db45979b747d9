"""Which tiles of the score matrix a kernel visits, and in what loops: one plan for every length.

A plan has passes, whose softmaxes are merged by log-sum-exp. Each has a layout: a tile ``(i, j)`` covers the queries in
the slots ``i * rows`` up to ``(i + 1) * rows`` and the keys in the slots ``j * columns`` up to ``(j + 1) * columns``.
Tiles are cut on positions, not on rows, so a plan does not depend on the number of queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attnspec.codegen.layouts.base import Layout, tiles_of
from attnspec.codegen.layouts.region import Region, Tiles
from attnspec.codegen.layouts.residue import IDENTITY
from attnspec.codegen.plan.tile_tests import Tests
from attnspec.codegen.tiles import Tile
from attnspec.relation.loops import Loops
from attnspec.relation.relation import Relation
from attnspec.relation.sizes import Sizes
from attnspec.spec.writing import Shown


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


@dataclass(frozen=True, eq=False, kw_only=True)
class Pass(Region):
    """A region, cut into tiles in one layout.

    Partial tiles evaluate its ``pred``. ``cut`` are the sets of tiles, for the residue ``c`` of the layout.
    """

    layout: Layout
    tile: Tile
    cut: Tiles
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

    def __str__(self) -> str:
        return f"{self.text}: waste {self.waste:.2f}, {self.tiles:,} tiles, cost {self.cost:.3g}"


@dataclass(frozen=True)
class Choice:
    """The ways that were compared for one branch, at which length, and which of them won.

    ``inputs`` says with which values of scalar inputs, in words.
    """

    n: int
    candidates: tuple[Candidate, ...]
    chosen: int
    inputs: str = ""

    @property
    def where(self) -> str:
        """At which length, and with which inputs."""
        return f"n = {self.n:,}" + (f", {self.inputs}" if self.inputs else "")

    def __str__(self) -> str:
        lines = [f"chosen at {self.where}, by estimated time:"]
        for number, candidate in enumerate(self.candidates):
            lines.append(f"{'->' if number == self.chosen else '  '} {candidate}")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class ClassPlan:
    """The passes of one class of heads; ``choices`` say why, for each branch (None where there was one way only)."""

    heads: tuple[int, ...] | None
    passes: tuple[Pass, ...]
    choices: tuple[Choice | None, ...]


@dataclass(frozen=True, eq=False)
class Plan(Shown):
    """The tiles that a kernel visits for a relation."""

    relation: Relation
    classes: tuple[ClassPlan, ...]

    def of_head(self, h: int) -> ClassPlan:
        """The plan of a head's class."""
        return self.classes[self.relation.classes.index(self.relation.of_head(h))]

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The passes of all classes."""
        return tuple(pass_ for plan in self.classes for pass_ in plan.passes)

    @property
    def tabled(self) -> bool:
        """Whether a kernel of this plan reads tables."""
        return any(pass_.tabled for pass_ in self.passes)

    @property
    def carry(self) -> bool:
        """Whether passes add to results that are there already, and not each row is written once by one pass."""
        several = any(len(head_class.passes) > 1 for head_class in self.classes)
        layouts = {(pass_.layout, pass_.tile) for pass_ in self.passes}
        alone = len(self.classes) == 1
        scattered = len(layouts) > 1 or any(x.scattered or (not alone and any(x.listed)) for x, _ in layouts)
        return several or scattered or self.relation.spec.sink is not None

    @property
    def plain(self) -> bool:
        """Whether a kernel needs nothing at a call but the tensors: no tables, no lists of positions."""
        return not self.tabled and not any(any(p.layout.listed) for p in self.passes)

    def __str__(self) -> str:
        lines = [f"plan {self.relation.spec.name}"]
        for head_class in self.classes:
            who = "all heads" if head_class.heads is None else f"heads {', '.join(map(str, head_class.heads))}"
            lines.append(f"{who}:")
            for choice in filter(None, head_class.choices):
                lines += [f"    {line}" for line in str(choice).splitlines()]
            for number, pass_ in enumerate(head_class.passes):
                lines += [f"    {line}" for line in _lines(pass_, number, bool(self.relation.spec.mixture))]
        return "\n".join(lines)


def _lines(pass_: Pass, number: int, mixed: bool) -> Iterator[str]:
    layout = "" if pass_.layout == IDENTITY else f", layout {pass_.layout}"
    branch = f", branch {pass_.branch}" if mixed else ""
    often = f", counted {pass_.times} times" if pass_.times > 1 else ""
    yield f"pass {number}{branch}{often}: {pass_.title}; tiles of {pass_.tile} (queries x keys){layout}"
    if not pass_.cut.proven:
        yield "    full tiles not proven within the solver's budget"
    if pass_.layout.residues > 1:
        r = pass_.layout.residues
        yield f"    for each residue c in 0 .. {r - 1}, tiles of the positions c, c + {r}, c + {2 * r}, ..."
    yield from (f"    {line}" for line in pass_.tests.lines())
    for title, sweep in (("forward, for query tile i", pass_.forward), ("backward, for key tile j", pass_.backward)):
        yield f"    {title}:"
        for kind, loops in (("full", sweep.full), ("full if inputs allow", sweep.maybe), ("partial", sweep.partial)):
            if loops is not None and not loops.body and kind != "full":
                continue
            text = "a table, built for each length" if loops is None else str(loops)
            yield f"        {kind}:"
            yield from (f"            {line}" for line in text.splitlines())
