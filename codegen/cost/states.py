"""What kernels do where weights are products of features: full tiles go through states, partial ones pair by pair.

A sweep walks the tiles of one side (queries, or keys where it is transposed) in order and holds one state, a matrix of
features by values over the tiles of the other side that are full for it. It is the rule of ``linear/sweep.hpp``: the
state takes in the tiles that come and lets go those that leave, or starts afresh where that is less; and full tiles are
computed pair by pair where so few rows read the state that it does not pay, until they have taken as much more than
reading it would have. (Pieces of the sequence for several threads are not counted.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from attnspec.codegen.cost.counted import Looked
from attnspec.codegen.cost.served import decays
from attnspec.codegen.expressions.entrywise import entrywise
from attnspec.codegen.plan.area import residues, short
from attnspec.codegen.plan.plan import Pass, Plan
from attnspec.relation.count import TooIrregular, runs
from attnspec.relation.presburger import Pairs, budget
from attnspec.relation.sizes import Sizes
from attnspec.spec.contents import free
from attnspec.spec.feature import is_exponential, parts
from attnspec.spec.weights import STEP, Weights

_MOST_RUNS = 2_000_000
"""Runs of full tiles that are walked: a few seconds."""

Run = tuple[int, int]
"""First and last tile."""


@dataclass(frozen=True)
class Swept:
    """What a sweep does: ``pairs`` one by one, ``reads`` of a state by rows, ``moves`` of rows into or out of it.

    ``tiles`` are those that move, ``through`` the pairs that are seen through states.
    """

    pairs: int = 0
    reads: int = 0
    moves: int = 0
    tiles: int = 0
    through: int = 0

    def __add__(self, other: Swept) -> Swept:
        return Swept(
            self.pairs + other.pairs,
            self.reads + other.reads,
            self.moves + other.moves,
            self.tiles + other.tiles,
            self.through + other.through,
        )

    def times(self, factor: int) -> Swept:
        """So many such sweeps."""
        return Swept(*(factor * a for a in (self.pairs, self.reads, self.moves, self.tiles, self.through)))


@dataclass(frozen=True)
class Sweep:
    """A sum over pairs: the features and values of its states, and whether keys are the outer side."""

    features: int
    values: int
    keys: bool = False

    def flops(self, of: Swept) -> int:
        """A multiply-add is two operations."""
        f, v = self.features, self.values
        return 2 * ((f + v) * of.pairs + f * v * (of.reads + of.moves))


def sweeps(weights: Weights, dim: int, dim_v: int) -> tuple[tuple[Sweep, ...], tuple[Sweep, ...]]:
    """Those of a forward pass, that of the output first, and of a backward pass.

    With a divisor the sum of weights goes along, as one more value or feature; where each feature has one of its own
    the sums are a sweep by themselves, whose values are the features of keys, and what they count from another.
    """
    m = weights.features(dim)
    if weights.each:
        assert weights.k is not None
        logs = any(map(is_exponential, parts(weights.k)))
        before = (Sweep(1, m),) * (2 if logs else 1)
        of_keys = Sweep(1, m, keys=True), Sweep(dim_v, m, keys=True), Sweep(m, dim_v, keys=True)
        return (Sweep(m, dim_v), *before), (*before, Sweep(dim_v, m), *of_keys)
    one = int(weights.divide is not None)
    of_v = Sweep(m, dim_v, keys=True)
    of_q_k = () if weights.constant else (Sweep(dim_v + one, m), Sweep(dim_v + one, m, keys=True))
    return (Sweep(m, dim_v + one),), (of_v, *of_q_k)


def made_before(weights: Weights, dim: int) -> int:
    """How many features of a vector are tensors before kernels run: none where these work them out themselves."""
    assert weights.q is not None
    assert weights.k is not None
    sides = weights.q, weights.k
    if weights.each or weights.reads_mass or any(entrywise(side) is None for side in sides):
        return weights.features(dim)
    return 0


def steps_by_channel(weights: Weights, dim: int) -> int:
    """How many logarithms of steps kernels read at each position of a head: none where they are few."""
    if not weights.by_channel or weights.decay is None or STEP.name not in free(weights.decay):
        return 0
    return weights.features(dim)


def team_of(plan: Plan, sizes: Sizes, at: int) -> int:
    """How many query heads share a state in the passes of a number: ``are_alike`` of ``linear/sweep.hpp``."""
    spec, group = plan.relation.spec, sizes.heads // sizes.kv_heads
    passes = [item.passes[at] for item in plan.classes if at < len(item.passes)]
    alike = spec.order is None and not decays(spec) and not any("h" in free(one.pred) for one in passes)
    same = all(plan.of_head(h) is plan.of_head(h // group * group) for h in range(sizes.heads))
    own = spec.weights.k is not None and "h" in free(spec.weights.k)  # then keys are repeated for their heads
    return group if alike and same and not own else 1


def swept(pass_: Pass, sizes: Sizes, h: int, b: int, sweep: Sweep, team: int, looked: Looked) -> Swept:
    """What a sweep does in one pass, of a team of heads together.

    Raises TooIrregular where there are too many runs of tiles.
    """
    total, full = Swept(pairs=looked.masked * team), looked.full
    # Residues differ by their tiles at the borders alone, unless inputs decide.
    kinds = residues(pass_.layout, pass_.cut.kinds, pass_.tile, sizes)
    for c, often in kinds if full is None else ((c, 1) for c in full):
        held = _of_plan(pass_, sizes, h, b, c, sweep.keys) if full is None else _of_tiles(full[c], sweep.keys)
        total += _walk(pass_, sizes, c, held, sweep, team).times(often)
    return total


def _of_tiles(full: Iterable[tuple[int, int]], keys: bool) -> dict[int, list[Run]]:
    found: dict[int, list[Run]] = defaultdict(list)
    for i, j in full:
        found[j if keys else i].append((i, i) if keys else (j, j))
    return found


def _of_plan(pass_: Pass, sizes: Sizes, h: int, b: int, c: int, keys: bool) -> dict[int, list[Run]]:
    """The runs of full tiles of each outer tile, in any order."""
    rows, columns, full = pass_.query_tiles(sizes, c), pass_.key_tiles(sizes, c), pass_.cut.full
    found: dict[int, list[Run]] = defaultdict(list)
    if not rows or not columns:
        return found
    box = Pairs.read(f"{rows.start} <= x < {rows.stop} and {columns.start} <= y < {columns.stop}")
    with budget(full):
        inside = full.intersection(box).fix(c=c, **sizes.parameters(h, b))
        if inside.is_empty():
            return found
        pieces = inside.pieces()
    outer = columns if keys else rows
    left = _MOST_RUNS
    for run in runs(tuple(p.transpose() for p in pieces) if keys else pieces, len(outer), outer.start):
        left -= len(run.x) if run.step == 1 else int(((run.high - run.low) // run.step + 1).sum())
        if left < 0:
            raise TooIrregular
        for o, low, high in zip(run.x.tolist(), run.low.tolist(), run.high.tolist(), strict=True):
            if run.step == 1:
                found[o].append((low, high))
            else:
                found[o] += ((j, j) for j in range(low, high + 1, run.step))
    return found


def _walk(pass_: Pass, sizes: Sizes, c: int, full: Mapping[int, list[Run]], sweep: Sweep, team: int) -> Swept:
    layout, tile = pass_.layout, pass_.tile
    of_queries = tile.rows, short(pass_.query_tiles(sizes, c), layout, 0, tile, sizes, c)
    of_keys = tile.columns, short(pass_.key_tiles(sizes, c), layout, 1, tile, sizes, c)
    (size_here, short_here), (there, short_there) = (of_keys, of_queries) if sweep.keys else (of_queries, of_keys)
    outer, inner = (1, team) if sweep.keys else (team, 1)  # heads of either side
    f, v = sweep.features, sweep.values

    def width(tiles: Sequence[Run]) -> int:
        """The positions of the inner side in tiles."""
        whole = sum(high - low + 1 for low, high in tiles) * there
        return whole - sum(less for j, less in short_there.items() if any(low <= j <= high for low, high in tiles))

    total, held, unsaved = Swept(), list[Run](), 0
    for o in sorted(full, reverse=sweep.keys):
        rows = (size_here - short_here.get(o, 0)) * outer
        if not rows:
            continue
        new = merged(full[o])
        kept = common(held, new)
        tiles, stay = _tiles(new), _tiles(kept)
        moved = tiles - stay + _tiles(held) - stay
        afresh = moved >= tiles
        moved = tiles if afresh else moved
        seen = width(new)
        by_pairs = (f + v) * rows * tiles * there * inner
        if by_pairs + unsaved < f * v * (moved * there * inner + rows):
            unsaved += max(0, by_pairs - f * v * rows)
            total = replace(total, pairs=total.pairs + rows * seen * inner)
            continue
        moves = seen if afresh else seen + width(held) - 2 * width(kept)
        total += Swept(0, rows, moves * inner, moved * inner, rows * seen * inner)
        held, unsaved = new, 0
    return total


def _tiles(of: Sequence[Run]) -> int:
    return sum(high - low + 1 for low, high in of)


def merged(of: list[Run]) -> list[Run]:
    """Runs in order, of which none touch.

    >>> merged([(5, 5), (0, 1), (2, 3)])
    [(0, 3), (5, 5)]
    """
    if len(of) == 1:
        return of
    found: list[Run] = []
    for low, high in sorted(of):
        if found and found[-1][1] + 1 >= low:
            found[-1] = found[-1][0], max(high, found[-1][1])
        else:
            found.append((low, high))
    return found


def common(one: Sequence[Run], other: Sequence[Run]) -> list[Run]:
    """The tiles that are in both.

    >>> common([(0, 3), (5, 9)], [(2, 6)])
    [(2, 3), (5, 6)]
    """
    found: list[Run] = []
    i = j = 0
    while i < len(one) and j < len(other):
        low, high = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if low <= high:
            found.append((low, high))
        i, j = (i + 1, j) if one[i][1] <= other[j][1] else (i, j + 1)
    return found
