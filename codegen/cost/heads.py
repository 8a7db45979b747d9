"""What each head of a call computes: its pairs and its tiles."""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.codegen.cost.counted import Contents, Looked, counted
from attnspec.codegen.plan.area import Area, area
from attnspec.codegen.plan.plan import Plan
from attnspec.relation.blocks import count_pairs
from attnspec.relation.effort import stage
from attnspec.relation.presburger import Pairs, budget
from attnspec.relation.relation import HeadClass, Part, Relation
from attnspec.relation.sizes import Sizes
from attnspec.spec.contents import free

_MOST_SHARES = 3
"""Of work that a cost may take: it asks for each head that differs."""


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
class Group:
    """Equal heads of equal batch entries, of which ``entry`` is one; ``times`` are their (head, batch entry) pairs."""

    head: HeadCost
    passes: tuple[Looked, ...]
    entry: int
    times: int


def groups_of(plan: Plan, sizes: Sizes, contents: Contents | None) -> list[Group]:
    """The cost of each group of equal heads."""
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
        return [
            Group(*_head(plan, head_class, sizes, heads, b, contents), b, times)
            for head_class, heads, b, times in asked
        ]


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
) -> tuple[HeadCost, tuple[Looked, ...]]:
    relation, order, h = plan.relation, plan.relation.spec.order, heads[0]
    relation.parameters(sizes, h, b, *(s for part in head_class.parts for s in (part.pairs, part.sure)))
    if contents is not None:
        seen = counted(relation.spec, plan.of_head(h).passes, sizes, h, b, contents)
        held = seen.area
        of_head = HeadCost(heads, seen.pairs, held.full, held.partial, held.computed, seen.clauses, seen.visited)
        return of_head, seen.passes
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
    total, visited, passes = Area(0, 0, 0, 0), 0, list[Looked]()
    for pass_ in plan.of_head(h).passes:
        held = area(pass_.cut, pass_.layout, pass_.tile, sizes, h, b)
        total += held
        passes.append(Looked(None, held.masked))
        visited += held.tiles * pass_.tile.rows * pass_.tile.columns
    of_head = HeadCost(heads, live, total.full, total.partial, total.computed, tuple(clauses), visited)
    return of_head, tuple(passes)


def _inside(clause: Pairs, part: Part) -> Pairs:
    """The pairs of a clause inside the ``within`` lines of its part."""
    with budget(clause, *part.within):
        for restriction in part.within:
            clause = clause.intersection(restriction)
    return clause
