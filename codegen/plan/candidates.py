"""The ways into which a branch could be cut: passes, each with a layout of its own.

Layouts propose themselves for a relation; and unions of terms are cut in two, of which one lies denser in a layout of
its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from itertools import product
from math import prod

from attnspec.codegen.layouts.base import Layout
from attnspec.codegen.layouts.proposals import PROPOSALS, SPLITS
from attnspec.codegen.layouts.region import Region, Tiles
from attnspec.codegen.layouts.residue import IDENTITY
from attnspec.codegen.layouts.slots import Slots
from attnspec.codegen.tiles import CPU, Rectangles, Tile
from attnspec.relation.condition import NotAffine, condition
from attnspec.relation.presburger import Pairs, TooHard, budget
from attnspec.relation.relation import Part, Relation, scalar_reads
from attnspec.spec import contents, rewrite
from attnspec.spec import expr as e
from attnspec.spec import make as s

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
        return self.layout.cut(self.region, self.tile)


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
    known = replace(part, pred=decided(part))
    for proposals in PROPOSALS:
        with suppress(TooHard, NotAffine):  # what is too hard for one layout is not for all
            yield from [(Step(whole, proposed, size),) for proposed, size in proposals(known, tile, grids)]
    if part.exact:
        with suppress(TooHard, NotAffine):
            yield from _splits(relation, part, branch, tile)


def decided(part: Part) -> e.Pred:
    """What a branch asks of pairs, without what only positions decide and the sets of pairs leave open.

    A layout for the divisors in it would gain nothing.
    """
    hard: dict[e.Node, e.Node] = {atom: e.Bool(True) for atom in part.unknown if not contents.reads(atom)}
    return rewrite.replace(part.pred, hard) if hard else part.pred


def _splits(relation: Relation, part: Part, branch: int, tile: Tile) -> Iterator[Way]:
    """Unions cut in two disjoint parts, of which one lies denser in a layout of its own."""
    found = terms(part.pred)
    if len(found) < 2:
        return
    with budget(part.pairs):
        scalars = scalar_reads(relation.spec)
        sets = [Pairs.read(f"y >= 0 and ({condition(t, True, scalars).text})") for t in found]
    for splits in SPLITS:
        for layout, inside in splits(found, sets):
            yield from _split(part, branch, found, sets, inside, layout, tile)


def _split(
    part: Part, branch: int, preds: tuple[e.Pred, ...], sets: list[Pairs], inside: list[int], layout: Layout, tile: Tile
) -> Iterator[Way]:
    """Both orders: the part with a layout of its own loses what the other has, or the other way round."""
    outside = [i for i in range(len(preds)) if i not in inside]
    if not outside:
        return
    with budget(*sets):
        pairs, other_pairs = (reduce(Pairs.union, [sets[i] for i in members]) for members in (inside, outside))
        only, other_only = pairs.difference(other_pairs), other_pairs.difference(pairs)
    pred, other = (s.disjunction([preds[i] for i in members]) for members in (inside, outside))

    def region(pred: e.Pred, pairs: Pairs, without: e.Pred | None = None) -> Region:
        title = f"{pred}" if without is None else f"{pred}, but not {without}"
        exactly = pred if without is None else s.conjunction([pred, s.negation(without)])
        return Region(title, exactly, pairs, pairs, branch, part.times)

    yield Step(region(other, other_pairs), IDENTITY, tile), Step(region(pred, only, other), layout, tile)
    yield Step(region(pred, pairs), layout, tile), Step(region(other, other_only, pred), IDENTITY, tile)


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
            if prod(map(len, choices)) > _MOST_TERMS:
                return (pred,)
            return tuple(s.conjunction(list(choice)) for choice in product(*choices))
    return (pred,)
