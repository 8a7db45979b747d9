"""What a call computes and moves, exactly, before anything runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from attnspec.codegen.cost.counted import Contents, counted
from attnspec.codegen.plan.area import Area, area, residues
from attnspec.codegen.plan.plan import Plan
from attnspec.relation.blocks import count_pairs
from attnspec.relation.effort import stage
from attnspec.relation.presburger import Pairs, budget
from attnspec.relation.relation import HeadClass, Part, Relation
from attnspec.relation.sizes import Sizes
from attnspec.spec.contents import free
from attnspec.spec.writing import Shown


@dataclass(frozen=True)
class HeadCost:
    """The pairs and tiles of one head of one batch entry.

    ``pairs`` are live query-key pairs, ``computed`` the pairs in visited tiles, ``clauses`` the pairs of each
    ``attend`` line by itself (inside the ``within`` lines). ``visited`` counts tiles as if none were cut off at the
    borders of a call: what is computed where a tile is a unit of the hardware.
    """

    heads: tuple[int, ...]
    pairs: int
    full: int
    partial: int
    computed: int
    clauses: tuple[int, ...]
    visited: int


@dataclass(frozen=True)
class Cost(Shown):
    """What a call of given sizes costs, over all heads and batch entries.

    Operations count a multiply-add as two. ``useful`` ones are spent on live pairs, ``flops`` on all pairs of visited
    tiles; backward recomputes the scores (five products where forward has two). ``bytes`` are what must cross the
    memory bus at least once: inputs, outputs, log-sum-exp and gradients. ``rows`` are the query tiles of all passes,
    heads and batch entries, ``columns`` the key tiles of all query heads, ``visited`` the pairs of whole visited tiles.

    ``exact`` says that pairs and tiles are those of the call; otherwise they are what is possible, whatever inputs (or
    a computed order) hold: upper bounds. ``inputs`` says in words which inputs they were counted with.
    """

    sizes: Sizes
    dim: int
    dim_v: int
    heads: tuple[HeadCost, ...]
    pairs: int
    dense: int
    full: int
    partial: int
    tiles: int
    computed: int
    flops: int
    useful: int
    bytes: int
    backward_flops: int
    backward_bytes: int
    visited: int
    rows: int
    columns: int
    exact: bool = True
    inputs: str = ""

    @property
    def density(self) -> float:
        """Live pairs over all pairs."""
        return self.pairs / self.dense if self.dense else 0.0

    @property
    def skipped(self) -> int:
        """Tiles that are never visited."""
        return self.tiles - self.full - self.partial

    @property
    def waste(self) -> float:
        """Computed over live pairs: 1 is perfect."""
        return self.computed / self.pairs if self.pairs else 1.0

    @property
    def intensity(self) -> float:
        """Operations per byte of the forward pass."""
        return self.flops / self.bytes if self.bytes else 0.0

    @property
    def backward_intensity(self) -> float:
        """Operations per byte of the backward pass."""
        return self.backward_flops / self.backward_bytes if self.backward_bytes else 0.0

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain data."""
        derived = ("density", "skipped", "waste", "intensity", "backward_intensity")
        return {**asdict(self), **{name: getattr(self, name) for name in derived}}

    def __str__(self) -> str:
        s, most = self.sizes, "" if self.exact else "at most "
        return "\n".join(
            [
                f"cost at n = {s.n:,}, n_q = {s.n_q:,}, {s.heads} heads, batch {s.batch}, dim {self.dim}",
                *([f"    inputs    {self.inputs}"] if self.inputs else []),
                f"    pairs     {most}{self.pairs:,} of {self.dense:,} ({self.density:.3%})",
                f"    tiles     {most}{self.full:,} full, {self.partial:,} partial, {self.skipped:,} skipped",
                *([f"    waste     {self.waste:.2f} computed pairs for each live one"] if self.exact else []),
                f"    forward   {most}{self.flops:.3e} operations, {self.bytes:,} bytes"
                f" ({self.intensity:.0f} per byte)",
                f"    backward  {most}{self.backward_flops:.3e} operations, {self.backward_bytes:,} bytes"
                f" ({self.backward_intensity:.0f} per byte)",
            ]
        )


_MOST_SHARES = 3
"""Of work that a cost may take: it asks for each head that differs."""


def cost(
    plan: Plan,
    sizes: Sizes,
    dim: int,
    dim_v: int,
    itemsize: int,
    contents: Contents | None = None,
    inputs: str = "",
) -> Cost:
    """The cost of one call; ``itemsize`` is the size of an element in bytes.

    ``sizes`` have the values of the scalar inputs on which the sets of pairs depend. Where these are not exact,
    ``contents`` hold the other inputs, and tiles and pairs are looked at one by one; without them what is counted is
    what is possible. ``inputs`` says in words which they are.

    Raises TooIrregular where the pattern's periods are too large for its pairs to be counted, DependsOnInputs where
    ``sizes`` lack a scalar input, TooMany where there is too much to look at.
    """
    contents = None if plan.relation.exact else contents
    groups = _groups(plan, sizes, contents)
    pairs = sum(c.pairs * times for c, times in groups)
    computed = sum(c.computed * times for c, times in groups)
    grids = [(_grid(plan, sizes, c.heads[0]), times) for c, times in groups]
    rows, columns, tiles = (sum(grid[i] * times for grid, times in grids) for i in range(3))
    query = sizes.heads * sizes.n_q * sizes.batch
    key = sizes.kv_heads * sizes.n * sizes.batch
    values = itemsize * query * dim_v
    moved = itemsize * (query * dim + key * (dim + dim_v)) + values + 4 * query
    back, branches = 2 * moved + values, len(plan.relation.spec.mixture)
    if plan.relation.spec.composed:  # each is a call of its own, and what they give is read again
        moved, back = branches * moved + (branches + 1) * values, branches * back + 2 * branches * values
    return Cost(
        sizes=sizes,
        dim=dim,
        dim_v=dim_v,
        heads=tuple(c for c, _ in groups),
        pairs=pairs,
        dense=sizes.n * sizes.n_q * sizes.heads * sizes.batch,
        full=sum(c.full * times for c, times in groups),
        partial=sum(c.partial * times for c, times in groups),
        tiles=tiles,
        computed=computed,
        flops=2 * (dim + dim_v) * computed,
        useful=2 * (dim + dim_v) * pairs,
        bytes=moved,
        backward_flops=2 * (3 * dim + 2 * dim_v) * computed,
        backward_bytes=back,
        visited=sum(c.visited * times for c, times in groups),
        rows=rows,
        columns=columns,
        exact=plan.relation.exact or contents is not None,
        inputs=inputs,
    )


def _groups(plan: Plan, sizes: Sizes, contents: Contents | None) -> list[tuple[HeadCost, int]]:
    """The cost of each group of equal heads, and how many (head, batch entry) pairs it stands for."""
    relation, asked = plan.relation, []
    if relation.heads is not None and sizes.heads > relation.heads:
        raise ValueError(f"{relation.spec.name} is defined for {relation.heads} heads, not {sizes.heads}")
    for head_class in relation.classes:
        members = head_class.members(sizes.heads)
        if not members:
            continue
        by_head = [(h,) for h in members] if _differ(relation, head_class, "h", contents) else [members]
        entries = range(sizes.batch if _differ(relation, head_class, "b", contents) else min(1, sizes.batch))
        for heads in by_head:
            times = len(heads) * (1 if len(entries) > 1 else sizes.batch)
            asked += [(head_class, heads, b, times) for b in entries]
    with stage(shares=min(_MOST_SHARES, max(1, len(asked)))):
        return [(_head(plan, head_class, sizes, heads, b, contents), times) for head_class, heads, b, times in asked]


def _differ(relation: Relation, head_class: HeadClass, by: str, contents: Contents | None) -> bool:
    """Whether heads of a class (``"h"``) or batch entries (``"b"``) differ."""
    if relation.varies(head_class, by):
        return True
    if contents is None:
        return False
    read = (name for part in head_class.parts for name in free(part.pred))
    return contents.slots is not None or by in read


def _head(
    plan: Plan, head_class: HeadClass, sizes: Sizes, heads: tuple[int, ...], b: int, contents: Contents | None
) -> HeadCost:
    relation, order, h = plan.relation, plan.relation.spec.order, heads[0]
    relation.parameters(sizes, h, b, *(s for part in head_class.parts for s in (part.pairs, part.sure)))
    if contents is not None:
        seen = counted(relation.spec, plan.of_head(h).passes, sizes, h, b, contents)
        held = seen.area
        return HeadCost(heads, seen.pairs, held.full, held.partial, held.computed, seen.clauses, seen.visited)
    slots = sizes.n * order.rounds if order else 0

    def pairs(which: Pairs) -> int:
        with budget(which):
            fixed = which.fix(**relation.parameters(sizes, h, b, which))
        if order is None:
            return count_pairs(fixed, range(sizes.first, sizes.first + sizes.n_q), sizes.n)
        return count_pairs(fixed, range(slots), slots)

    live, clauses = 0, []
    for part in head_class.parts:
        own = pairs(part.pairs)
        live += part.times * own
        clauses += [own] if len(part.attend) == 1 else [pairs(_inside(clause, part)) for clause in part.attend]
    total, visited = Area(0, 0, 0, 0), 0
    for pass_ in plan.of_head(h).passes:
        held = area(pass_.cut, pass_.layout, pass_.tile, sizes, h, b)
        total += held
        visited += held.tiles * pass_.tile.rows * pass_.tile.columns
    return HeadCost(heads, live, total.full, total.partial, total.computed, tuple(clauses), visited)


def _inside(clause: Pairs, part: Part) -> Pairs:
    """The pairs of a clause inside the ``within`` lines of its part."""
    with budget(clause, *part.within):
        for restriction in part.within:
            clause = clause.intersection(restriction)
    return clause


def _grid(plan: Plan, sizes: Sizes, h: int) -> tuple[int, int, int]:
    """How many query tiles, key tiles and tiles there are in the layouts of a head's passes, visited or not."""
    rows, columns, tiles = 0, 0, 0
    for pass_ in plan.of_head(h).passes:
        for c, often in residues(pass_.layout, (), pass_.tile, sizes):
            down, across = len(pass_.query_tiles(sizes, c)), len(pass_.key_tiles(sizes, c))
            rows, columns, tiles = rows + often * down, columns + often * across, tiles + often * down * across
    return rows, columns, tiles
