"""The planner's decisions: into which passes a branch is cut, and in which layout each lies.

Each candidate is cut into tiles exactly, and the cheapest one wins.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import cycle

from attnspec.codegen.layouts.residue import IDENTITY
from attnspec.codegen.plan.area import Area, area
from attnspec.codegen.plan.candidates import Way, decided, ways
from attnspec.codegen.plan.plan import Candidate, Choice, ClassPlan, Pass, Plan
from attnspec.codegen.plan.tile_tests import block_tile, tests
from attnspec.codegen.plan.tiling import make_pass
from attnspec.codegen.tiles import CPU, LINEAR, SEQUENCE, Tile, TileSizes
from attnspec.relation.condition import NotAffine
from attnspec.relation.count import TooIrregular, count
from attnspec.relation.effort import stage
from attnspec.relation.presburger import SCALARS, TooHard, budget
from attnspec.relation.relation import HeadClass, Part, Relation, box, scalar_names
from attnspec.relation.sizes import Scalar, Sizes
from attnspec.spec import contents
from attnspec.spec import expr as e

_LEAST, _MOST = 8192, 1 << 17
"""The lengths at which candidates are compared: the pattern's largest constant four times over, within these."""

# Costs in units of one computed pair (about a nanosecond of one core at head size 64): rough estimates, not fitted.
_PER_TILE, _PER_MOVED_KEY, _PER_MASKED_PAIR, _PER_ROW = 150.0, 12.0, 0.3, 40.0


@stage()
def plan(
    relation: Relation,
    tile: Tile | None = None,
    layout: str = "auto",
    sizes: TileSizes | None = None,
    scalars: tuple[Scalar | None, ...] = (),
) -> Plan:
    """The plan of a relation.

    ``tile`` fixes the size of tiles, which is otherwise one of the target's ``sizes``, by default those of the CPU
    (in a mixture of which branches are calls of their own, those of each);
    ``layout`` is ``"auto"``, ``"identity"`` for one pass over positions in order, or ``"sequence"``. ``scalars`` are
    values of the scalar inputs with which candidates are compared; those that are not known are taken to be n. The plan
    serves all values alike.
    """
    spec = relation.spec
    kinds = [LINEAR if one.weights.linear else CPU for one in spec.calls]
    return Plan(
        relation,
        tuple(
            _class(relation, each, tile, layout, cycle(kinds if sizes is None else [sizes]), scalars)
            for each in relation.classes
        ),
    )


def _class(
    relation: Relation,
    head_class: HeadClass,
    tile: Tile | None,
    layout: str,
    sizes: Iterable[TileSizes],
    scalars: tuple[Scalar | None, ...],
) -> ClassPlan:
    passes: list[Pass] = []
    choices: list[Choice | None] = []
    for branch, (part, usual) in enumerate(zip(head_class.parts, sizes, strict=False)):  # of sizes there is no end
        size = tile or block_tile(part.unknown, usual.tile)
        found = list(ways(relation, part, branch, size, "auto" if layout == SEQUENCE else layout, usual.grids))
        found = [way for way in found if layout != SEQUENCE or _in_sequence(way)]
        chosen, choice = (found[0], None) if len(found) == 1 else _choose(relation, head_class, part, found, scalars)
        made = _passes(relation, part, chosen)
        if any(pass_.layout.residues > 1 and pass_.tabled for pass_ in made):  # a table is of one residue
            made, choice = _passes(relation, part, found[0]), None
        passes += made
        choices.append(choice)
    return ClassPlan(head_class.heads, tuple(passes), tuple(choices))


def _in_sequence(way: Way) -> bool:
    """Whether all pairs are in one pass, whose tiles have positions in their order."""
    return len(way) == 1 and not any(way[0].layout.listed) and not way[0].layout.scattered


def _passes(relation: Relation, part: Part, way: Way) -> list[Pass]:
    found: list[Pass] = []
    for step in way:
        told = tests(relation.spec, step.region.pred, part.unknown, step.layout, step.tile)
        found.append(make_pass(step.region, step.layout, step.tile, step.cut, relation.spec.align, told))
    return found


def _choose(
    relation: Relation, head_class: HeadClass, part: Part, found: list[Way], scalars: tuple[Scalar | None, ...]
) -> tuple[Way, Choice | None]:
    n = _length(decided(part))
    sizes = _sizes(relation, head_class, n, scalars)
    h = head_class.heads[0] if head_class.heads else 0
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
    return compared[best][0], Choice(
        n, tuple(c for _, c in compared), best, _assumed(relation, part, sizes, scalars, h)
    )


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
        moved = 0 if step.layout == IDENTITY else step.tile.columns
        cost += held.computed + held.tiles * (_PER_TILE + _PER_MOVED_KEY * moved) + _PER_MASKED_PAIR * held.masked
        cost += _PER_ROW * sizes.n_q
        total += held
    text = "; then ".join(f"{step.layout} with tiles of {step.tile}" for step in way)
    return Candidate(text, live, total.computed, total.tiles, cost)


def _length(pred: e.Node) -> int:
    largest = max((abs(node.value) for node in contents.walk(pred) if isinstance(node, e.Int)), default=1)
    n = _LEAST
    while n < 4 * largest and n < _MOST:
        n *= 2
    return n


def _sizes(relation: Relation, head_class: HeadClass, n: int, given: tuple[Scalar | None, ...]) -> Sizes:
    known = dict(relation.known)
    heads = known.get("heads", max(head_class.heads or (0,)) + 1)
    scalars = tuple(value or Scalar.of(n) for value in (*given, *(None,) * (len(SCALARS) - len(given))))
    return Sizes(
        n, n, heads, known.get("kv_heads", heads), known.get("batch", 1), relation.spec.align == "end", scalars=scalars
    )


def _assumed(relation: Relation, part: Part, sizes: Sizes, given: tuple[Scalar | None, ...], h: int) -> str:
    """The values of scalar inputs with which candidates were compared, in words."""
    values, words = sizes.parameters(h, 0), []
    for number, (name, scalar) in enumerate(scalar_names(relation.spec).items()):
        if part.pairs.depends_on(scalar):
            known = number < len(given) and given[number] is not None
            words.append(f"{name} = {values[scalar]:,}" if known else f"{name} = n")
    return ", ".join(words)
