"""Which blocks of FlexAttention hold a pair, and which hold nothing else: for every length at once.

FlexAttention cuts blocks on rows, not on positions: with fewer queries than keys they lie elsewhere. What only inputs
decide is decided for whole blocks where that can be (see :mod:`attnspec.codegen.plan.tile_tests`): there is a case for
each way that it may turn out, and a block's own tests say which of them are possible in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from attnspec.codegen.flex.conditions import NotSolved, condition
from attnspec.codegen.flex.text import Text
from attnspec.codegen.layouts.region import Region
from attnspec.codegen.layouts.residue import IDENTITY
from attnspec.codegen.plan.corners import POSITIONS, certain, possible, tells
from attnspec.codegen.plan.tile_tests import Tests, block_tile, tests
from attnspec.codegen.tiles import Tile
from attnspec.relation.condition import NotAffine, common_divisor
from attnspec.relation.condition import condition as affine
from attnspec.relation.loops import Lit, Loops, Name, Op
from attnspec.relation.presburger import PARAMETERS, Pairs, TooHard, budget
from attnspec.relation.relation import Part, Relation, scalar_reads
from attnspec.spec import contents, make
from attnspec.spec import expr as e
from attnspec.spec.rewrite import replace as replaced

BLOCK = Tile(128, 128)
"""FlexAttention's own."""
_MOST_ATOMS = 3
_UNWIELDY = 1000
"""Nodes of loops from which on they are not written out."""
NOTHING = Loops(())


@dataclass(frozen=True)
class Told:
    """What is known of an atom in a block: ``could`` hold of some pair, and ``must`` hold of every pair.

    Both over the corners ``q_first``, ``q_last``, ``k_first`` and ``k_last``, or, where ``everywhere``, over ``q`` and
    ``k``, any pair of the block, if blocks begin at multiples of their size.
    """

    atom: e.Pred
    could: e.Pred
    must: e.Pred
    everywhere: bool = False


@dataclass(frozen=True)
class Case:
    """The blocks there are if the atoms are so: ``truths`` in the order of the atoms.

    ``touched`` is None where it is unwieldy: then any block may hold a pair.
    """

    truths: tuple[bool, ...]
    touched: Loops | None
    full: Loops


@dataclass(frozen=True)
class Blocks:
    """The blocks of a class of heads. ``open`` are atoms that are evaluated pair by pair: blocks may hold none."""

    heads: tuple[int, ...] | None
    told: tuple[Told, ...]
    cases: tuple[Case, ...]
    open: tuple[e.Pred, ...]


def size(relation: Relation, asked: Tile | None) -> Tile:
    """The size of blocks: FlexAttention's own, or that of the blocks of a table that the pattern reads."""
    tile = asked or BLOCK
    for item in relation.classes:
        tile = tile if asked else block_tile(item.unknown, tile)
    return tile


def blocks(relation: Relation, tile: Tile) -> tuple[Blocks, ...]:
    """The blocks of each class of heads."""
    return tuple(_blocks(relation, item.heads, item.parts[0], tile) for item in relation.classes)


def _blocks(relation: Relation, heads: tuple[int, ...] | None, part: Part, tile: Tile) -> Blocks:
    if part.exact:
        return Blocks(heads, (), (_case(relation, (), part.pairs, part.sure, tile),), ())
    found = tests(relation.spec, part.pred, part.unknown, IDENTITY, tile)
    told = tuple(filter(None, (_told(relation, atom, found) for atom in part.unknown)))[:_MOST_ATOMS]
    known = {one.atom for one in told}
    cases = []
    for truths in product((False, True), repeat=len(told)):
        try:
            pairs = _sets(relation, part, dict(zip((one.atom for one in told), truths, strict=True)))
        except (TooHard, NotAffine):
            pairs = part.pairs, part.sure  # what is possible, and certain, in every case
        cases.append(_case(relation, truths, *pairs, tile))
    return Blocks(heads, told, tuple(cases), tuple(atom for atom in part.unknown if atom not in known))


def _told(relation: Relation, atom: e.Pred, found: Tests) -> Told | None:
    """What a block tells of an atom, if it tells anything."""
    whole = {item.name for item in relation.spec.inputs if item.sizes and item.sizes[-1] == e.Var("n")}
    names = {node.name.split(".")[0] for node in contents.walk(atom) if isinstance(node, e.Read)}
    for run in found.runs:
        if run.atom == atom and names <= whole:
            q, k = (tuple(_at(run.query, f"{side}_{end}") for end in ("first", "last")) for side in "qk")
            could = make.conjunction([e.Cmp("<=", q[0], k[1]), e.Cmp("<=", k[0], q[1])])
            must = make.conjunction([_inside("q_last"), e.Cmp("==", q[0], q[1]), e.Cmp("==", k[0], k[1])])
            return Told(atom, could, make.conjunction([must, e.Cmp("==", q[0], k[0])]))
    if atom in found.blocks:
        return Told(atom, atom, atom, everywhere=True)
    edges = any(isinstance(node, e.Read) and "." in node.name for node in contents.walk(atom))
    if (tells(atom, POSITIONS) or isinstance(atom, e.Cmp)) and not (edges and not names <= whole):
        could, must = possible(atom, POSITIONS), certain(atom, POSITIONS)
        if (could, must) != (e.Bool(True), e.Bool(False)):
            return Told(atom, could, must)
    return None


def _at(read: e.Read, corner: str) -> e.Read:
    """An entry of a sorted input at a corner of a block, or at the nearest place that it has."""
    last = e.Add((e.Var("n"), e.Int(-1)))
    return e.Read(read.name, (*read.indices[:-1], e.Max((e.Min((e.Var(corner), last)), e.Int(0)))))


def _inside(corner: str) -> e.Pred:
    return e.Cmp("<", e.Var(corner), e.Var("n"))


def _sets(relation: Relation, part: Part, truths: dict[e.Pred, bool]) -> tuple[Pairs, Pairs]:
    """The pairs that are possible and those that are certain, if atoms are so."""
    table: dict[e.Node, e.Node] = {atom: e.Bool(truth) for atom, truth in truths.items()}
    pred = replaced(part.pred, table)
    scalars, divisor = scalar_reads(relation.spec), common_divisor(pred)
    hard = tuple(atom for atom in part.unknown if atom not in truths)
    most = affine(pred, True, scalars, hard=hard)
    with budget(numbers=divisor):
        pairs = Pairs.read(f"y >= 0 and ({most.text})")
        if not most.unknown:
            return pairs, pairs
        return pairs, Pairs.read(f"y >= 0 and ({affine(pred, False, scalars, hard=hard).text})")


def _case(relation: Relation, truths: tuple[bool, ...], pairs: Pairs, sure: Pairs, tile: Tile) -> Case:
    """The blocks of sets of pairs, from positions to rows."""
    rows, columns, end = tile.rows, tile.columns, relation.spec.align == "end"
    if end:
        with budget(pairs, sure):
            moved = pairs.shift_rows("n - n_q")
            pairs, sure = moved, moved if sure is pairs else sure.shift_rows("n - n_q")
    known = "n >= 1 and n_q >= 1 and 0 <= h < heads and kv_heads >= 1 and 0 <= b < batch and c = 0 and i >= 0"
    known += " and n_q <= n" if end else ""
    box = Pairs.read(f"0 <= x < n_q and 0 <= y < n{' and n_q <= n' if end else ''}")
    held = Pairs.read(f"x >= 0 and 0 <= {columns} * y < n")
    whole = Pairs.read(f"y >= 0 and {columns} * y + {columns} <= n")
    some, all_ = f"{known} and {rows} * i < n_q", f"{known} and {rows} * i + {rows} <= n_q"
    # Of all pairs there may be, a few blocks more are touched, at the edges of a call.
    touched = _loops(lambda: pairs.intersection(box).tiles(rows, columns), some, pairs)
    if touched is None:
        touched = _loops(lambda: pairs.tiles(rows, columns).intersection(held), some, pairs)
    cut = IDENTITY.cut(Region("", e.Bool(True), pairs, sure), tile)
    return Case(truths, touched, _loops(lambda: cut.full.intersection(whole), all_, cut.full) or NOTHING)


def _loops(tiles: Callable[[], Pairs], known: str, of: Pairs) -> Loops | None:
    """The key tiles of each query tile; None where they are unwieldy."""
    try:
        with budget(of):
            loops = tiles().loops("i", "j", known)
        if loops.size > _UNWIELDY:
            return None
        condition(loops, dict.fromkeys(PARAMETERS, Text("p")))
    except (TooHard, NotSolved):
        return None
    return loops


def last(tile: Tile) -> Op:
    """The last key tile of a call, as loops write it."""
    return Op("//", (Op("-", (Name("n"), Lit(1))), Lit(tile.columns)))
