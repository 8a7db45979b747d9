"""Which keys a query that comes later may still see, as a set: what caches are derived from."""

from __future__ import annotations

from collections.abc import Iterator

from attnspec.errors.relations import several_axes
from attnspec.relation.presburger import SCALARS, Pairs
from attnspec.relation.relation import HeadClass, NoAnswer, Relation
from attnspec.relation.sizes import Sizes

Who = tuple[tuple[int, ...] | None, int | None]
"""Heads, None for all; and a batch entry, None for all."""


def groups(relation: Relation, sizes: Sizes) -> Iterator[tuple[HeadClass, Who, int, int]]:
    """The classes of heads (and batch entries) that see alike: each with a head and an entry that stand for it.

    Of ``sizes`` only heads and batch matter. Raises NoAnswer where a computed order or axes leave no question to ask.
    """
    relation.require_positions()
    if relation.spec.axes:
        raise NoAnswer([several_axes(relation.spec.span, relation.spec.name, "a cache of keys")])
    for item in relation.classes:
        members = tuple(range(sizes.heads)) if item.heads is None else item.heads
        alike = [(h,) for h in members] if relation.varies(item, "h") else [members]
        for heads in alike:
            for b in range(sizes.batch) if relation.varies(item, "b") else (None,):
                every = item.heads is None and heads == members
                yield item, (None if every else heads, b), heads[0], b or 0


def live(pairs: Pairs, values: dict[str, int], aligned_end: bool) -> Pairs:
    """The pairs ``(t, k)``, k < t, for which a query that comes after t tokens may see key k.

    ``pairs`` are those of a part of a pattern, ``values`` those of its sizes but n and n_q. A later query may come in
    any call: alone, or with queries before and after it, which is to say for any n above q; and scalar inputs may
    hold anything. Where query rows count from position 0 in each call, every query is a later one.
    """
    sizes = {name: value for name, value in values.items() if name not in ("n", "n_q", "m", *SCALARS)}
    after = " and x < n" if aligned_end else ""
    seen = pairs.intersection(Pairs.read(f"x >= 0 and 0 <= y < n{after}")).fix(**sizes)
    for name in ("n", "n_q", "m", *SCALARS):
        if seen.depends_on(name):
            seen = seen.without(name)
    later = Pairs.read("0 <= x <= y" if aligned_end else "x >= 0 and y >= 0")
    return later.then(seen).intersection(Pairs.read("0 <= y < x"))
