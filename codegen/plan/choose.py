"""The decisions of DESIGN 5.1 and 5.2: into which passes a branch is cut, and in which layout each lies.

Candidates come from the relation: the modulus by which query and key always agree, the divisors that make positions a
grid, columns that all queries share. Each is cut into tiles exactly, and the cheapest one wins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

from attnspec.codegen.layouts.comb import Comb
from attnspec.codegen.layouts.residue import IDENTITY, Columns, Grid, Layout, Residue, Slots
from attnspec.codegen.plan.area import Area, area
from attnspec.codegen.plan.plan import Candidate, Choice, ClassPlan, Pass, Plan
from attnspec.codegen.plan.tile_tests import block_tile, tests
from attnspec.codegen.plan.tiling import Region, Tiles, make_pass, tiles
from attnspec.codegen.terms import terms
from attnspec.codegen.tiles import CPU, Rectangles, Tile, TileSizes
from attnspec.relation.condition import NotAffine, condition
from attnspec.relation.count import TooIrregular, count, runs
from attnspec.relation.presburger import Pairs, TooHard, budget
from attnspec.relation.relation import HeadClass, Part, Relation, box, scalar_reads
from attnspec.relation.sizes import Scalar, Sizes
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec import make as s

_LEAST, _MOST = 8192, 1 << 17
"""The lengths at which candidates are compared: the pattern's largest constant four times over, within these."""
_MOST_COLUMNS = 4096
_MOST_RESIDUES = 4096
"""Residues beyond which each would hold too few positions to fill a tile."""
_MOST_WIDTH = 1024

# Costs in units of one computed pair (about a nanosecond of one core at head size 64): rough estimates, not fitted.
_PER_TILE, _PER_MOVED_KEY, _PER_MASKED_PAIR, _PER_ROW = 150.0, 12.0, 0.3, 40.0


@dataclass(frozen=True, eq=False)
class Step:
    """A region and where it lies: a pass before its tiles are known."""

    region: Region
    layout: Layout
    tile: Tile

    @cached_property
    def cut(self) -> Tiles:
        """Its tiles. Raises TooHard or NotAffine where the layout has none."""
        return tiles(self.region, self.layout, self.tile)


Way = tuple[Step, ...]


def plan(relation: Relation, tile: Tile | None = None, layout: str = "auto", sizes: TileSizes = CPU) -> Plan:
    """The plan of a relation.

    ``tile`` fixes the size of tiles, which is otherwise one of the target's ``sizes``; ``layout`` is ``"auto"``, or
    ``"identity"`` for one pass over positions in order.
    """
    return Plan(relation, tuple(_class(relation, item, tile, layout, sizes) for item in relation.classes))


def _class(relation: Relation, item: HeadClass, tile: Tile | None, layout: str, sizes: TileSizes) -> ClassPlan:
    passes: list[Pass] = []
    choices: list[Choice | None] = []
    for branch, part in enumerate(item.parts):
        size = tile or block_tile(part.unknown, sizes.tile)
        ways = list(_ways(relation, part, branch, size, layout, sizes.grids))
        chosen, choice = (ways[0], None) if len(ways) == 1 else _choose(relation, item, part, ways)
        made = _passes(relation, part, chosen)
        if any(one.layout.residues > 1 and one.tabled for one in made):  # a table is of one residue
            made, choice = _passes(relation, part, ways[0]), None
        passes += made
        choices.append(choice)
    return ClassPlan(item.heads, tuple(passes), tuple(choices))


def _passes(relation: Relation, part: Part, way: Way) -> list[Pass]:
    found: list[Pass] = []
    for step in way:
        told = tests(relation.spec, step.region.pred, part.unknown, step.layout, step.tile)
        found.append(make_pass(step.region, step.layout, step.tile, step.cut, relation.spec.align, told))
    return found


def ways(relation: Relation, part: Part, branch: int, tile: Tile) -> list[Way]:
    """All candidates for a branch; the first is one pass over positions in order."""
    return list(_ways(relation, part, branch, tile, "auto", CPU.grids))


def _ways(
    relation: Relation, part: Part, branch: int, tile: Tile, layout: str, grids: tuple[Rectangles, ...]
) -> Iterator[Way]:
    whole = Region("all pairs", part.pred, part.pairs, part.sure, branch, part.times)
    if relation.spec.order is not None:
        rounds = relation.spec.order.rounds
        yield tuple(Step(whole, Slots(r, rounds), tile) for r in range(rounds))
        return
    yield (Step(whole, IDENTITY, tile),)
    if layout != "auto":
        return
    try:
        with budget(part.pairs):
            modulus = part.pairs.stride()
    except TooHard:
        return
    combed = False
    for segment, rate in _combs(part.pred):
        comb = Comb.of(segment, rate, tile.rows)
        try:
            with budget(part.pairs):
                fits = part.pairs.within(comb.universe())
        except TooHard:
            continue
        if fits and part.exact and comb.room % tile.columns == 0:
            combed = True
            yield (Step(whole, comb, tile),)
    if 1 < modulus <= _MOST_RESIDUES and not combed:
        yield (Step(whole, Residue(modulus), tile),)
    for width in _widths(part.pred):
        for query, key in grids:
            if width % query[1] == 0 and width % key[1] == 0:
                size = Tile(query[0] * query[1], key[0] * key[1])
                yield (Step(whole, Grid(width, query, key), size),)
    if part.exact:
        try:
            columns = _columns(part.pred, part.pairs)
            if columns is not None:
                yield (Step(whole, columns, tile),)
            yield from _splits(relation, part, branch, tile)
        except (TooHard, NotAffine):
            return


def _splits(relation: Relation, part: Part, branch: int, tile: Tile) -> Iterator[Way]:
    """Unions cut in two disjoint parts, of which one lies denser in a layout of its own."""
    found = terms(part.pred)
    if len(found) < 2:
        return
    with budget(part.pairs):
        scalars = scalar_reads(relation.spec)
        sets = [Pairs.read(f"y >= 0 and ({condition(t, True, scalars).text})") for t in found]
    with budget(*sets):
        strides = [x.stride() for x in sets]
    for modulus in sorted({r for r in strides if 1 < r <= _MOST_RESIDUES}):
        inside = [i for i, r in enumerate(strides) if r % modulus == 0]
        yield from _split(part, branch, found, sets, inside, Residue(modulus), tile)
    for i, x in enumerate(sets):
        columns = _columns(found[i], x)
        if columns is not None:
            yield from _split(part, branch, found, sets, [i], columns, tile)


def _split(
    part: Part, branch: int, preds: tuple[e.Pred, ...], sets: list[Pairs], inside: list[int], layout: Layout, tile: Tile
) -> Iterator[Way]:
    """Both orders: the part with a layout of its own loses what the other has, or the other way round."""
    outside = [i for i in range(len(preds)) if i not in inside]
    if not outside:
        return
    with budget(*sets):
        sides = []
        for members in (inside, outside):
            union = sets[members[0]]
            for i in members[1:]:
                union = union.union(sets[i])
            sides.append((s.disjunction([preds[i] for i in members]), union))
        (p, a), (r, b) = sides
        less, rest = a.difference(b), b.difference(a)

    def region(pred: e.Pred, pairs: Pairs, others: e.Pred | None) -> Region:
        title = f"{pred}" if others is None else f"{pred}, but not {others}"
        exactly = pred if others is None else s.conjunction([pred, s.negation(others)])
        return Region(title, exactly, pairs, pairs, branch, part.times)

    yield (Step(region(r, b, None), IDENTITY, tile), Step(region(p, less, r), layout, tile))
    yield (Step(region(p, a, None), layout, tile), Step(region(r, rest, p), IDENTITY, tile))


def _widths(pred: e.Node) -> list[int]:
    """Row lengths of grids: constants by which positions are both divided and reduced."""
    divided: set[int] = set()
    reduced: set[int] = set()
    for node in contents.walk(pred):
        match node:
            case e.FloorDiv(e.Var("q" | "k"), e.Int(value)):
                divided.add(value)
            case e.Mod(e.Var("q" | "k"), e.Int(value)):
                reduced.add(value)
    return sorted(w for w in divided & reduced if w <= _MOST_WIDTH)


def _combs(pred: e.Node) -> list[tuple[int, int]]:
    """Segments and rates of ``q % segment % rate``, where the rate does not divide the segment."""
    found: set[tuple[int, int]] = set()
    for node in contents.walk(pred):
        match node:
            case e.Mod(e.Mod(_, e.Int(segment)), e.Int(rate)) if (
                1 < rate < segment and rate <= _MOST_RESIDUES and segment % rate
            ):
                found.add((segment, rate))
    return sorted(found)


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


def _choose(relation: Relation, item: HeadClass, part: Part, found: list[Way]) -> tuple[Way, Choice | None]:
    n = _length(part.pred)
    sizes = _sizes(relation, item, n)
    h = item.heads[0] if item.heads else 0
    try:
        live = _live(part, sizes, h)
    except (TooHard, TooIrregular):
        return found[0], None
    compared: list[tuple[Way, Candidate]] = []
    for way in found:
        try:
            compared.append((way, _weigh(way, live, sizes, h)))
        except (TooHard, TooIrregular, NotAffine):
            continue
    if not compared:
        return found[0], None
    best = min(range(len(compared)), key=lambda i: compared[i][1].cost)
    return compared[best][0], Choice(n, tuple(c for _, c in compared), best)


@lru_cache(maxsize=64)
def _live(part: Part, sizes: Sizes, h: int) -> int:
    """The pairs of a branch; remembered, as a GPU's kernels have plans with tiles of several sizes."""
    with budget(part.pairs):
        return count(part.pairs.intersection(box(sizes)).fix(**sizes.parameters(h, 0)).pieces(), sizes.n, sizes.first)


def _weigh(way: Way, live: int, sizes: Sizes, h: int) -> Candidate:
    total, cost = Area(0, 0, 0, 0), 0.0
    for step in way:
        if step.layout.residues > 1 and not step.cut.proven:
            raise TooHard("the tiles of this layout")
        held = area(step.cut, step.layout, step.tile, sizes, h, 0)
        visits = held.full + held.partial
        moved = 0 if step.layout == IDENTITY else step.tile.columns
        cost += held.computed + visits * (_PER_TILE + _PER_MOVED_KEY * moved) + _PER_MASKED_PAIR * held.masked
        cost += _PER_ROW * sizes.n_q
        total += held
    text = "; then ".join(f"{step.layout} with tiles of {step.tile}" for step in way)
    return Candidate(text, live, total.computed, total.full + total.partial, cost)


def _length(pred: e.Node) -> int:
    largest = max((abs(node.value) for node in contents.walk(pred) if isinstance(node, e.Int)), default=1)
    n = _LEAST
    while n < 4 * largest and n < _MOST:
        n *= 2
    return n


def _sizes(relation: Relation, item: HeadClass, n: int) -> Sizes:
    known = dict(relation.known)
    heads = known.get("heads", max(item.heads or (0,)) + 1)
    scalars = tuple(Scalar.of(n) for _ in range(6))
    return Sizes(
        n, n, heads, known.get("kv_heads", heads), known.get("batch", 1), relation.spec.align == "end", scalars=scalars
    )
