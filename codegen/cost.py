"""What a call computes and moves, exactly, before anything runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from attnspec.codegen.plan import Plan
from attnspec.pieces import count, row_counts
from attnspec.presburger import Pairs, budget
from attnspec.relation import HeadClass
from attnspec.sizes import Sizes


@dataclass(frozen=True)
class HeadCost:
    """The pairs and tiles of one head of one batch entry.

    ``pairs`` are live query-key pairs, ``computed`` the pairs in visited tiles, ``clauses`` the pairs of each
    ``attend`` line by itself (inside the ``within`` lines).
    """

    heads: tuple[int, ...]
    pairs: int
    full: int
    partial: int
    computed: int
    clauses: tuple[int, ...]


@dataclass(frozen=True)
class Cost:
    """What a call of given sizes costs, over all heads and batch entries.

    Operations count a multiply-add as two. ``useful`` ones are spent on live pairs, ``flops`` on all pairs of visited
    tiles; backward recomputes the scores (five products where forward has two). ``bytes`` are what must cross the
    memory bus at least once: inputs, outputs, log-sum-exp and gradients.
    """

    sizes: Sizes
    dim: int
    dim_v: int
    tile: tuple[int, int]
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
        s = self.sizes
        return "\n".join(
            [
                f"cost at n = {s.n:,}, n_q = {s.n_q:,}, {s.heads} heads, batch {s.batch}, dim {self.dim}",
                f"    pairs     {self.pairs:,} of {self.dense:,} ({self.density:.3%})",
                f"    tiles     {self.full:,} full, {self.partial:,} partial, {self.skipped:,} skipped",
                f"    waste     {self.waste:.2f} computed pairs for each live one",
                f"    forward   {self.flops:.3e} operations, {self.bytes:,} bytes ({self.intensity:.0f} per byte)",
                f"    backward  {self.backward_flops:.3e} operations, {self.backward_bytes:,} bytes"
                f" ({self.backward_intensity:.0f} per byte)",
            ]
        )


def cost(plan: Plan, sizes: Sizes, dim: int, dim_v: int, itemsize: int) -> Cost:
    """The cost of one call; ``itemsize`` is the size of an element in bytes.

    Raises TooIrregular where the pattern's periods are too large for its pairs to be counted.
    """
    groups = _groups(plan, sizes)
    pairs = sum(c.pairs * times for c, times in groups)
    full = sum(c.full * times for c, times in groups)
    partial = sum(c.partial * times for c, times in groups)
    computed = sum(c.computed * times for c, times in groups)
    rows, keys = plan.query_tiles(sizes), plan.key_tiles(sizes)
    everything = sizes.heads * sizes.batch
    query = sizes.heads * sizes.n_q * sizes.batch
    key = sizes.kv_heads * sizes.n * sizes.batch
    moved = itemsize * (query * (dim + dim_v) + key * (dim + dim_v)) + 4 * query
    return Cost(
        sizes,
        dim,
        dim_v,
        (plan.tile.rows, plan.tile.columns),
        tuple(c for c, _ in groups),
        pairs,
        sizes.n * sizes.n_q * everything,
        full,
        partial,
        len(rows) * len(keys) * everything,
        computed,
        2 * (dim + dim_v) * computed,
        2 * (dim + dim_v) * pairs,
        moved,
        2 * (3 * dim + 2 * dim_v) * computed,
        2 * moved + itemsize * query * dim_v,
    )


def _groups(plan: Plan, sizes: Sizes) -> list[tuple[HeadCost, int]]:
    """The cost of each group of equal heads, and how many (head, batch entry) pairs it stands for."""
    relation, found = plan.relation, []
    if relation.heads is not None and sizes.heads > relation.heads:
        raise ValueError(f"{relation.spec.name} is defined for {relation.heads} heads, not {sizes.heads}")
    for item in relation.classes:
        members = item.members(sizes.heads)
        if not members:
            continue
        by_head = [(h,) for h in members] if item.pairs.depends_on("h") else [members]
        entries = range(sizes.batch) if item.pairs.depends_on("b") else range(min(1, sizes.batch))
        for heads in by_head:
            for b in entries:
                times = len(heads) * (1 if len(entries) > 1 else sizes.batch)
                found.append((_head(plan, item, sizes, heads, b), times))
    return found


def _head(plan: Plan, item: HeadClass, sizes: Sizes, heads: tuple[int, ...], b: int) -> HeadCost:
    relation, chosen, h = plan.relation, plan.of_head(heads[0]), heads[0]

    def pairs(which: Pairs) -> int:
        return count(relation.at(sizes, h, b, which), sizes.n_q, sizes.first)

    clauses = []
    for clause in item.attend:
        with budget(clause, *item.within):
            for restriction in item.within:
                clause = clause.intersection(restriction)
        clauses.append(pairs(clause))
    full, full_area = _tiles(plan, chosen.full, sizes, h, b)
    partial, partial_area = _tiles(plan, chosen.partial, sizes, h, b)
    return HeadCost(heads, pairs(item.pairs), full, partial, full_area + partial_area, tuple(clauses))


def _tiles(plan: Plan, tiles: Pairs, sizes: Sizes, h: int, b: int) -> tuple[int, int]:
    """How many tiles of a set a call visits, and how many pairs they hold: tiles at the borders are cut."""
    rows, keys = plan.query_tiles(sizes), plan.key_tiles(sizes)
    if not rows or not keys:
        return 0, 0

    def within(columns: range) -> tuple[int, Any]:
        box = Pairs.read(f"{rows.start} <= x < {rows.stop} and {columns.start} <= y < {columns.stop}")
        with budget(tiles):
            pieces = tiles.intersection(box).fix(**sizes.parameters(h, b)).pieces()
        edges = np.unique(np.array([rows.start, rows.stop - 1], dtype=np.int64))
        return count(pieces, len(rows), rows.start), dict(
            zip(edges.tolist(), row_counts(pieces, edges).tolist(), strict=True)
        )

    def area(number: int, edges: dict[int, int], width: int) -> int:
        """Pairs of ``number`` tiles of one width, of which those in the first and last tile row are cut."""
        size, total = plan.tile.rows, number * plan.tile.rows
        for i, held in edges.items():
            live = min((i + 1) * size, sizes.first + sizes.n_q) - max(i * size, sizes.first)
            total -= held * (size - live)
        return total * width

    last = keys[-1:]
    inner, inner_edges = within(keys[:-1]) if len(keys) > 1 else (0, {})
    outer, outer_edges = within(last)
    tail = sizes.n - last.start * plan.tile.columns
    return inner + outer, area(inner, inner_edges, plan.tile.columns) + area(outer, outer_edges, tail)
