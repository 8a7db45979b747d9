"""Whether what a query sees, and how, changes when tokens come after it: then decoding is not what training was.

>>> from attnspec.check.check import check_text
>>> from attnspec.relation.lower import lower
>>> print(grows(lower(check_text("attention a { attend k <= q and k >= n - 3 }"))))
query 0 sees key 0 as the last of n = 1 tokens, and not in a call of n = 4
>>> print(grows(lower(check_text("attention a { attend causal  score s * log(n) }"))))
`s * log(n)` reads `n`
>>> grows(lower(check_text("attention a { attend q - 3 <= k and k <= min(q, n - 1) }")))
''
"""

from __future__ import annotations

from attnspec.relation.effort import stage
from attnspec.relation.presburger import Pairs, TooHard, budget
from attnspec.relation.relation import Part, Relation
from attnspec.spec import contents


@stage()
def grows(relation: Relation) -> str:
    """What of a pattern is not the same for a query in a call of more tokens; empty where all is."""
    spec = relation.spec
    for declared in spec.inputs:
        sizes = [] if declared.random is None else [*declared.sizes, declared.random.low, declared.random.high]
        if any("n" in contents.free(size) for size in sizes if size is not None):
            return f"`{declared}` reads `n`, and other numbers are drawn"
    turns = [node for rotation in spec.turns for node in rotation.expressions]
    for node in (*spec.reals, *turns):
        if "n" in contents.free(node):
            return f"`{node}` reads `n`"
    if not any("n" in contents.free(root) for root in spec.roots):
        return ""
    return next((found for item in relation.classes for part in item.parts if (found := _grows(part))), "")


def _grows(part: Part) -> str:
    for atom in part.unknown:
        if "n" in contents.free(atom):
            return f"`{atom}` reads `n`"
    inside = Pairs.read("0 <= x < n and 0 <= y < n and 0 <= h < heads and 0 <= b < batch")
    for pairs in {part.pairs, part.sure}:
        try:
            with budget(pairs):
                last = pairs.with_parameter("n", "x + 1")
                less, more = (a.difference(b).intersection(inside).sample() for a, b in ((last, pairs), (pairs, last)))
        except TooHard:
            return "too much depends on `n` to tell what does"
        if less is not None:
            return f"{_named(less)} as the last of n = {less['x'] + 1} tokens, and not in a call of n = {less['n']}"
        if more is not None:
            return f"{_named(more)} in a call of n = {more['n']}, and not as the last of n = {more['x'] + 1} tokens"
    return ""


def _named(point: dict[str, int]) -> str:
    return f"query {point['x']} sees key {point['y']}"
