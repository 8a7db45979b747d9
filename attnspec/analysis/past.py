"""Whether a pattern looks ahead: what a correction, or a running maximum, may not do.

>>> from attnspec.check.check import check_text
>>> from attnspec.relation.lower import lower
>>> ahead(lower(check_text("attention a { attend |q - k| <= 1 }")))
Ahead(q=0, k=1, n=2)
>>> ahead(lower(check_text("attention a { input doc: int[batch, n]  attend causal and doc[q] == doc[k] }"))) is None
True
"""

from __future__ import annotations

from typing import NamedTuple

from attnspec.errors.diagnostic import SpecError
from attnspec.errors.relations import looks_ahead
from attnspec.relation.effort import stage
from attnspec.relation.presburger import Pairs, budget
from attnspec.relation.relation import Relation


class Ahead(NamedTuple):
    """A pair whose key comes after its query, in a call of n keys; inputs may hold what makes it one."""

    q: int
    k: int
    n: int


@stage()
def ahead(relation: Relation) -> Ahead | None:
    """The first pair that may look ahead, in any call; None where there is none, whatever the inputs hold."""
    later = Pairs.read("0 <= x < n and 0 <= y < n and y > x and 0 <= h < heads and 0 <= b < batch")
    for item in relation.classes:
        with budget(item.pairs):
            point = item.pairs.intersection(later).sample()
        if point is not None:
            return Ahead(point["x"], point["y"], point["n"])
    return None


def require_past(relation: Relation) -> None:
    """Raise SpecError, with a pair, where a spec's lines want keys of the past and its pattern may look ahead."""
    weights, spec = relation.spec.weights, relation.spec
    running = any(found.stable == "running" for found in weights.favors)
    if weights.delta is None and not running:
        return
    found = ahead(relation)
    if found is not None:
        word = "linear" if weights.delta is None else "delta"
        what = "a running maximum" if weights.delta is None else "`delta`"
        pair = f"query {found.q} may see key {found.k} (n = {found.n})"
        raise SpecError([looks_ahead(weights.span_of(word, spec.span), what, pair)])
