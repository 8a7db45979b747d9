"""What a pattern tells heads apart by, and how many heads a list of reals covers: it must have an entry for each.

>>> from attnspec.check.check import check_text
>>> spec = check_text("attention a { score s + [0.5, 0.25][h] * k }")
>>> uncovered(spec, {"heads": 2, "kv_heads": 2, "batch": 1})
>>> uncovered(spec, {"heads": 3, "kv_heads": 3, "batch": 1})
('[0.5, 0.25][h]', 2)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attnspec.spec import contents, exact
from attnspec.spec import expr as e
from attnspec.spec.real import Item
from attnspec.spec.spec import Spec


def alike(spec: Spec) -> bool:
    """Whether all heads see the same pairs with the same score lines: sinks apart, which rows have beside their keys.

    >>> from attnspec.check.check import check_text
    >>> alike(check_text("attention a { attend causal }")), alike(check_text("attention a { attend q - k <= h }"))
    (True, False)
    """
    return spec.order is None and not any(
        "h" in contents.free(x) for b in spec.branches for x in (b.pred, spec.score, b.score)
    )


def lists_by_head(spec: Spec) -> Iterator[Item]:
    """The reads of lists of reals at indices that depend on the head, or on how many there are, alone."""
    for root in spec.reals:
        for node in contents.walk(root):
            if isinstance(node, Item) and any(map(_by_head, node.indices)):
                yield node


def _by_head(index: e.IntExpr) -> bool:
    names = contents.free(index)
    return bool(names) and names <= e.CONSTANTS and not contents.varies(index)


def uncovered(spec: Spec, sizes: Mapping[str, int]) -> tuple[str, int] | None:
    """A read that is outside its list for a head of a call of these sizes, and that head; None where there is none."""
    for node in lists_by_head(spec):
        items = node.items
        for index in node.indices:
            for h in range(sizes["heads"]) if _by_head(index) else ():
                try:
                    at = exact.integer(index, {**sizes, "h": h})
                except exact.Unknown:
                    at = -1
                if not 0 <= at < len(items):
                    return str(node), h
            items = items[0] if isinstance(items[0], tuple) else ()
    return None
