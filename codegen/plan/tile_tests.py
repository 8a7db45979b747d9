"""What a kernel can find out about a whole tile from the inputs, without looking at its pairs.

Three kinds of atoms tell: that query and key are in the same run of a sorted input (``doc[q] == doc[k]``), which bounds
the keys of a query tile by binary search; an entry that is the same for all pairs of a tile, of a table or list of
blocks (``keep[b, h, q // 64, k // 64]``); and comparisons of which a tile's corners tell, because a divisor or a factor
comes with the call (``q // chunk == k // chunk``), or because they count from where a document begins
(``k - first(doc, k) < 4``): see :mod:`attnspec.codegen.plan.corners`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import replace as replace_
from math import gcd

from attnspec.codegen.layouts.base import Layout
from attnspec.codegen.layouts.residue import IDENTITY
from attnspec.codegen.plan.corners import POSITIONS, SLOTS, Limit, certain, is_edge, limit, possible, tells
from attnspec.codegen.plan.spans import ALWAYS, Span, spans
from attnspec.codegen.tiles import Tile
from attnspec.relation.documents import both_sides
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec import make as s
from attnspec.spec.exact import TooLarge
from attnspec.spec.rewrite import replace
from attnspec.spec.spec import Spec

_QUERY, _KEY = (e.Var("q"), e.Var("q_slot")), (e.Var("k"), e.Var("k_slot"))
_LEAST = 16
_MOST = 400
"""Nodes of a test of corners."""


@dataclass(frozen=True)
class SameRun:
    """A sorted input has the same value at the query (read by ``query``) and at the key."""

    atom: e.Pred
    query: e.Read
    key: e.Read


@dataclass(frozen=True)
class Tests:
    """The atoms that a tile decides.

    ``runs`` and ``blocks`` that are ``required`` must hold wherever the pattern does: tiles where they hold nowhere are
    skipped. ``whole``: with all of ``runs`` and ``blocks`` true in a tile, and ``every``, nothing is left open there.
    ``unknown`` are all atoms that symbols leave open.

    ``corners`` are the atoms of which the corners of a tile tell: where ``live`` does not hold of them the tile is
    skipped, and ``every`` holds of them where the atoms leave nothing open. Some bound the tiles: the keys of a query
    tile lie within ``key_limits``, the queries of a key tile within ``query_limits``.

    ``loose`` are runs and blocks that are terms of a union: there are pairs without them, so they bound no tiles.
    """

    runs: tuple[SameRun, ...]
    blocks: tuple[e.Pred, ...]
    required: frozenset[e.Pred]
    whole: bool
    unknown: tuple[e.Pred, ...] = ()
    corners: tuple[e.Pred, ...] = ()
    live: e.Pred = ALWAYS
    every: e.Pred = ALWAYS
    key_limits: tuple[Limit, ...] = ()
    query_limits: tuple[Limit, ...] = ()
    query_live: e.Pred = ALWAYS
    key_live: e.Pred = ALWAYS
    key_spans: tuple[Span, ...] = ()
    query_spans: tuple[Span, ...] = ()
    loose: tuple[e.Pred, ...] = ()

    def lines(self) -> Iterator[str]:
        """What is left open at compile time, and how a kernel finds out."""
        for run in self.runs:
            if run.atom in self.required:
                yield f"inputs: {run.atom} bounds the tiles by binary search in `{run.query.name}` (lo .. hi)"
        for atom in self.blocks:
            if atom in self.required:
                yield f"inputs: {atom} is looked up once for each tile; tiles where it is false are skipped"
        for atom in self.corners:
            yield f"inputs: {atom} is looked at in the corners of tiles; those that it leaves empty are skipped"
        if self.key_limits:
            yield "inputs: what these say bounds the tiles (lo .. hi)"
        for side, ranges in (("query", self.key_spans), ("key", self.query_spans)):
            if ranges:
                yield f"inputs: the tiles of a {side} tile are two ranges (lo .. hi, twice), of a union's two terms"
        for atom in self.loose:
            yield f"inputs: {atom} bounds no tiles, as it need not hold: it is asked in each"
        told = {run.atom for run in self.runs} | set(self.blocks) | set(self.corners)
        for atom in self.unknown:
            if atom not in told:
                yield f"not decided for whole tiles: {atom}; evaluated for every pair of every tile that may hold one"

    @property
    def bounded(self) -> bool:
        """Whether inputs bound the tiles to visit."""
        limits = self.key_limits or self.query_limits or self.key_spans or self.query_spans
        return any(run.atom in self.required for run in self.runs) or bool(limits)

    @property
    def asks(self) -> bool:
        """Whether anything is asked of a tile."""
        return bool(self.runs or self.blocks or self.corners)

    def limits(self, outer: str) -> tuple[Limit, ...]:
        """What bounds the inner tiles of a tile of queries (``"q"``) or of keys (``"k"``)."""
        return self.key_limits if outer == "q" else self.query_limits

    def alive(self, outer: str) -> e.Pred:
        """What holds of the corners of every tile of queries (``"q"``) or of keys (``"k"``) that has inner tiles."""
        return self.query_live if outer == "q" else self.key_live

    def spans(self, outer: str) -> tuple[Span, ...]:
        """The two ranges of inner tiles of a tile of queries (``"q"``) or of keys (``"k"``), if there are two."""
        return self.key_spans if outer == "q" else self.query_spans

    def rest(self, pred: e.Pred) -> e.Pred:
        """What is left to evaluate for the pairs of a visited tile: blocks that are required hold there."""
        table: dict[e.Node, e.Node] = {atom: e.Bool(True) for atom in self.blocks if atom in self.required}
        return _tidy(replace(pred, table)) if table else pred


NO_TESTS = Tests((), (), frozenset(), False)


def tests(spec: Spec, pred: e.Pred, unknown: tuple[e.Pred, ...], layout: Layout, tile: Tile) -> Tests:
    """What can be told of a tile of a layout."""
    if not unknown or not layout.tests_tiles:
        return Tests((), (), frozenset(), False, unknown)
    sorted_ = {i.name for i in spec.inputs if i.form != "plain"} | {"order.bucket"}
    runs = tuple(run for atom in unknown if (run := _run(atom, sorted_)) is not None)
    blocks = tuple(atom for atom in unknown if layout == IDENTITY and _is_block(atom, tile))
    decided = {run.atom for run in runs} | set(blocks)
    required = _required(pred)
    found = _corners(spec, pred, unknown, frozenset(decided), layout)
    rest = set(unknown) - set(found.corners)
    whole = decided >= rest and not _negative(pred, rest, False)
    needed, spanned = frozenset(required & decided), found.key_spans or found.query_spans
    loose = () if spanned else [a for a in unknown if a in decided - needed and not _negative(pred, {a}, False)]
    return replace_(found, runs=runs, blocks=blocks, required=needed, whole=whole, unknown=unknown, loose=tuple(loose))


def _corners(
    spec: Spec, pred: e.Pred, unknown: tuple[e.Pred, ...], decided: frozenset[e.Pred], layout: Layout
) -> Tests:
    """What corners tell of atoms; nothing where that takes too long to find out in a kernel.

    ``decided`` are atoms that are found out in other ways.
    """
    sides = SLOTS if layout.order else POSITIONS
    (query, _), (key, _) = sides.items()
    own = frozenset(_parts(pred))
    parts = tuple(part for part in _parts(both_sides(pred)) if _inside(spec, part))
    signs = set().union(*(_signs(part, True) for part in parts))
    try:
        moved = {atom for atom, _ in signs if any(map(is_edge, contents.walk(atom)))}
        open_ = dict.fromkeys((*unknown, *sorted(moved, key=str)))
        atoms = tuple(a for a in open_ if a not in decided and {(a, True), (a, False)} & signs and tells(a, sides))
        asked = tuple(part for part in parts if not set(atoms).isdisjoint(contents.walk(part)))
        required = _required(s.conjunction(list(asked)))
        live = possible(s.conjunction(list(asked)), sides)
        others: dict[e.Node, e.Node] = {atom: e.Bool(True) for atom in decided}
        every = [certain(_tidy(replace(part, others)), sides) for part in asked if part in own]
        ends = [[limit(atom, side, sides) for atom in atoms if atom in required] for side in (key, query)]
        query_live, key_live = (
            s.conjunction([possible(a, sides) for a in atoms if a in required and contents.free(a) & {*sides} == {one}])
            for one in (query, key)
        )
        key_spans, query_spans = (spans(asked, *pair, sides) for pair in ((query, key), (key, query)))
    except TooLarge:
        return NO_TESTS
    keys, queries = (tuple(found for found in side if found is not None and found.plain) for side in ends)
    if max(contents.measure(node)[0] for node in (live, *every)) > _MOST:
        return NO_TESTS
    return Tests(
        runs=(),
        blocks=(),
        required=frozenset(),
        whole=False,
        corners=atoms,
        live=live,
        every=s.conjunction(every),
        key_limits=keys,
        query_limits=queries,
        query_live=query_live,
        key_live=key_live,
        key_spans=key_spans,
        query_spans=query_spans,
    )


def _inside(spec: Spec, part: e.Pred) -> bool:
    """Whether the edges of documents that a predicate reads are those of inputs with an entry for each position."""
    whole = {item.name for item in spec.inputs if item.sizes and item.sizes[-1] == e.Var("n")}
    return all(
        node.name.split(".")[0] in whole for node in contents.walk(part) if isinstance(node, e.Read) and is_edge(node)
    )


def _parts(pred: e.Pred) -> Iterator[e.Pred]:
    """What a predicate is the conjunction of."""
    if isinstance(pred, e.And):
        for arg in pred.args:
            yield from _parts(arg)
    else:
        yield pred


def _signs(pred: e.Pred, sign: bool) -> set[tuple[e.Pred, bool]]:
    """The comparisons of a predicate, each with whether it stands where its truth helps."""
    match pred:
        case e.Not(arg):
            return _signs(arg, not sign)
        case e.Iff(left, right):
            return {found for side in (left, right) for at in (False, True) for found in _signs(side, at)}
        case e.And(args) | e.Or(args):
            return set().union(*(_signs(arg, sign) for arg in args))
        case e.Cmp():
            return {(pred, sign)}
    return set()  # under a bound name it is a comparison for each of its values


def block_tile(unknown: tuple[e.Pred, ...], tile: Tile) -> Tile:
    """The largest tile, not above the given one, whose pairs read one entry of every table of blocks."""
    rows, columns = tile.rows, tile.columns
    for atom in unknown:
        sides = _sides(atom)
        if sides is not None:
            rows, columns = gcd(rows, *sides[0]), gcd(columns, *sides[1])
    return Tile(rows, columns) if min(rows, columns) >= _LEAST else tile


def _run(atom: e.Pred, sorted_: set[str]) -> SameRun | None:
    match atom:
        case e.Cmp("==", e.Read(name, left) as a, e.Read(other, right) as b) if name == other and name in sorted_:
            if left[:-1] != right[:-1] or contents.free(e.Add(left[:-1])) & (e.POSITIONS | e.SLOTS):
                return None
            if left[-1] in _QUERY and right[-1] in _KEY:
                return SameRun(atom, a, b)
            if left[-1] in _KEY and right[-1] in _QUERY:
                return SameRun(atom, b, a)
    return None


def _sides(atom: e.Pred) -> tuple[set[int], set[int]] | None:
    """The sizes of the blocks of queries and of keys, if an atom reads positions only through these."""
    match atom:
        case e.Flag(_, indices):
            parts: tuple[e.IntExpr, ...] = indices
        case e.Among(item, _, indices):
            parts = (item, *indices)
        case _:
            return None
    rows: set[int] = set()
    columns: set[int] = set()
    for part in parts:
        match part:
            case e.FloorDiv(e.Var("q"), e.Int(size)):
                rows.add(size)
            case e.FloorDiv(e.Var("k"), e.Int(size)):
                columns.add(size)
            case _ if contents.free(part) & (e.POSITIONS | e.SLOTS):
                return None
    return rows, columns


def _is_block(atom: e.Pred, tile: Tile) -> bool:
    sides = _sides(atom)
    if sides is None:
        return False
    return all(size % tile.rows == 0 for size in sides[0]) and all(size % tile.columns == 0 for size in sides[1])


def _required(pred: e.Pred) -> set[e.Pred]:
    """Atoms that hold wherever a predicate does."""
    match pred:
        case e.And(args):
            return set().union(*map(_required, args))
        case e.Or(args) if args:
            return set.intersection(*map(_required, args))
        case e.Cmp() | e.Flag() | e.Among():
            return {pred}
    return set()


def _negative(pred: e.Pred, atoms: set[e.Pred], below: bool) -> bool:
    """Whether an atom stands where its truth may make the predicate false."""
    match pred:
        case e.Not(arg):
            return _negative(arg, atoms, not below)
        case e.Iff(left, right):
            return any(_negative(side, atoms, at) for side in (left, right) for at in (False, True))
        case e.And(args) | e.Or(args):
            return any(_negative(a, atoms, below) for a in args)
        case e.Any(_, _, body) | e.All(_, _, body):
            return _negative(body, atoms, below)
    return below and pred in atoms


def _tidy(pred: e.Pred) -> e.Pred:
    match pred:
        case e.And(args):
            return s.conjunction([_tidy(a) for a in args])
        case e.Or(args):
            return s.disjunction([_tidy(a) for a in args])
    return pred
