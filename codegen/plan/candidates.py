"""The ways into which a branch could be cut: passes, each with a layout of its own (DESIGN 5.1 and 5.2).

They come from the relation: the modulus by which query and key always agree, the divisors that make positions a grid,
columns that all queries share; and unions of terms are cut in two, of which one lies denser in a layout of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from attnspec.codegen.layouts.comb import Comb
from attnspec.codegen.layouts.residue import IDENTITY, Columns, Grid, Layout, Residue, Slots
from attnspec.codegen.plan.tiling import Region, Tiles, tiles
from attnspec.codegen.tiles import CPU, Rectangles, Tile
from attnspec.relation.condition import NotAffine, condition
from attnspec.relation.count import runs
from attnspec.relation.presburger import Pairs, TooHard, budget
from attnspec.relation.relation import Part, Relation, scalar_reads
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec import make as s

_MOST_COLUMNS = 4096
_MOST_RESIDUES = 4096
"""Residues beyond which each would hold too few positions to fill a tile."""
_MOST_WIDTH = 1024
_MOST_TERMS = 16


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


def ways(
    relation: Relation,
    part: Part,
    branch: int,
    tile: Tile,
    layout: str = "auto",
    grids: tuple[Rectangles, ...] = CPU.grids,
) -> Iterator[Way]:
    """All candidates for a branch; the first is one pass over positions in order."""
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


def terms(pred: e.Pred) -> tuple[e.Pred, ...]:
    """Predicates whose union is the given one: one if it cannot be split, or into too many.

    >>> from attnspec.check.check import check_text
    >>> spec = check_text("attention a { attend q == k  attend k < 4  within causal }")
    >>> [str(term) for term in terms(spec.pred)]
    ['q == k and k <= q', 'k < 4 and k <= q']
    """
    found = _terms(pred)
    return found if len(found) <= _MOST_TERMS else (pred,)


def _terms(pred: e.Pred) -> tuple[e.Pred, ...]:
    match pred:
        case e.Or(args):
            parts = [_terms(a) for a in args]
            total = tuple(t for part in parts for t in part)
            return total if 0 < len(total) <= _MOST_TERMS else (pred,)
        case e.And(args):
            choices = [_terms(a) for a in args]
            size = 1
            for choice in choices:
                size *= len(choice)
            if size > _MOST_TERMS:
                return (pred,)
            return tuple(s.conjunction(list(choice)) for choice in product(*choices))
    return (pred,)
