"""The sets that ranks plan for: one for each branch and each group of heads that see alike."""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.codegen.ranks.schedule import Heads
from attnspec.relation.presburger import SCALARS, Pairs, budget
from attnspec.relation.relation import HeadClass, Relation, box
from attnspec.relation.sizes import Sizes


@dataclass(frozen=True, eq=False)
class Pattern:
    """The pairs of a branch for a group of heads (None: all), whatever inputs hold.

    ``count`` is how many heads there are, ``keys`` the group of key heads by number: groups of query heads that share a
    key head have the same.
    """

    branch: int
    heads: Heads | None
    count: int
    keys: int
    pairs: Pairs
    """One object for all that have the same."""


@dataclass(frozen=True, eq=False)
class Patterns:
    """All of them, and the query heads of each group of key heads (None: all)."""

    items: tuple[Pattern, ...]
    branches: int
    groups: tuple[Heads | None, ...]


def patterns(relation: Relation, sizes: Sizes) -> Patterns:
    """The sets of a pattern. Raises DependsOnInputs where they are over places in a computed order."""
    relation.require_positions()
    apart = _apart(relation, sizes)
    groups, of = _key_groups(apart, sizes)
    found: list[Pattern] = []
    known: dict[tuple[int, int], list[Pairs]] = {}
    for number, heads in enumerate(apart):
        first, count = (0, sizes.heads) if heads is None else (heads[0], heads[1] - heads[0])
        item = relation.of_head(first)
        for branch, part in enumerate(item.parts):
            mine = _possible(part.pairs, sizes, first)
            same = next((pairs for pairs in known.get((branch, id(item)), ()) if _equal(mine, pairs)), None)
            if same is None:
                known.setdefault((branch, id(item)), []).append(mine)
            found.append(Pattern(branch, heads, count, of[number], mine if same is None else same))
    return Patterns(tuple(found), len(relation.spec.branches), groups)


def _possible(pairs: Pairs, sizes: Sizes, h: int) -> Pairs:
    """The pairs of a head that are possible in some batch entry, for some values of scalar inputs."""
    values = {name: value for name, value in sizes.parameters(h, 0).items() if name not in ("b", *SCALARS)}
    with budget(pairs):
        found = pairs.intersection(box(sizes)).fix(**values)
        for name in ("b", *SCALARS):
            if found.depends_on(name):
                found = found.without(name)
    return found


def _equal(one: Pairs, other: Pairs) -> bool:
    with budget(one, other):
        return one.equals(other)


def _apart(relation: Relation, sizes: Sizes) -> tuple[Heads | None, ...]:
    """The groups of neighbouring heads that see alike in every branch; None for all heads."""
    kinds: list[tuple[int, int]] = []
    for h in range(sizes.heads):
        item: HeadClass = relation.of_head(h)
        kinds.append((id(item), h if item.pairs.depends_on("h") else 0))
    starts = [h for h in range(sizes.heads) if h == 0 or kinds[h] != kinds[h - 1]]
    if len(starts) <= 1:
        return (None,)
    return tuple(zip(starts, [*starts[1:], sizes.heads], strict=True))


def _key_groups(apart: tuple[Heads | None, ...], sizes: Sizes) -> tuple[tuple[Heads | None, ...], list[int]]:
    """Groups of whole key heads, by their query heads, and for each group of query heads which it belongs to."""
    groups: list[Heads | None] = []
    of: list[int] = []
    for heads in apart:
        if heads is None:
            return (None,), [0]
        last = groups[-1] if groups else None
        if last is not None and last[1] > heads[0]:
            groups[-1] = (last[0], max(last[1], -(-heads[1] // sizes.group) * sizes.group))
        else:
            groups.append((heads[0], -(-heads[1] // sizes.group) * sizes.group))
        of.append(len(groups) - 1)
    return tuple(groups), of
