"""From a checked pattern to its relation: every predicate becomes an exact set of pairs.

What is not affine is made affine where the language allows it: lists and conditional values by case distinction, bound
names by an existential variable or one by one, factors and divisors that depend on the head by one relation per class
of heads.
"""

from __future__ import annotations

from collections import defaultdict

from attnspec import expr as e
from attnspec import mistakes_of_relation as mistakes
from attnspec.bind import BadDivisor, OutsideList, bind
from attnspec.condition import NotAffine, common_divisor, condition, head_constants
from attnspec.error import SpecError
from attnspec.presburger import LARGE, Pairs, TooHard, budget
from attnspec.relation import HeadClass, Relation
from attnspec.spec import Clause, Spec


def lower(spec: Spec, heads: int | None = None, kv_heads: int | None = None, batch: int | None = None) -> Relation:
    """The relation of a pattern, symbolic in the lengths and, where heads differ only affinely, in the head.

    ``heads``, ``kv_heads`` and ``batch`` need be given only where the pattern is not affine in them.
    Raises SpecError where a clause is not affine or beyond the solver's operation limit.
    """
    sizes = {"heads": heads, "kv_heads": heads if kv_heads is None else kv_heads, "batch": batch}
    needed = _needed(spec)
    known = {name: _require(spec, name, sizes[name]) for name in sorted(needed - {"h"})}
    if "h" not in needed:
        return Relation(spec, (_class(spec, None, known),), tuple(known.items()))
    count = heads if heads is not None else listed_heads(spec)
    classes: dict[tuple[e.Pred, ...], list[int]] = defaultdict(list)
    total = _require(spec, "heads", count)
    for h in range(total):
        classes[tuple(_bound(c, {**known, "h": h}, total) for c in (*spec.attend, *spec.within))].append(h)
    return Relation(
        spec,
        tuple(_class(spec, tuple(members), {**known, "h": members[0]}) for members in classes.values()),
        tuple(known.items()),
    )


def sizes_needed(spec: Spec) -> frozenset[str]:
    """Which of heads, kv_heads and batch :func:`lower` must be given: one relation per class of heads covers all."""
    needed = _needed(spec)
    return (needed - {"h"}) | ({"heads"} if "h" in needed else frozenset())


def _needed(spec: Spec) -> frozenset[str]:
    """The per-head constants that stand where only a number is affine."""
    return frozenset().union(*(head_constants(c.pred) for c in (*spec.attend, *spec.within)))


def listed_heads(spec: Spec) -> int | None:
    """The number of heads that the pattern's lists (those indexed by ``h``) are written for; None if there are none."""
    lengths: set[int] = set()

    def visit(node: e.Node) -> None:
        if isinstance(node, (e.Index, e.Values)) and node.indices and node.indices[0] == e.Var("h"):
            lengths.add(len(node.items))
        for child in node.children():
            visit(child)

    for clause in (*spec.attend, *spec.within):
        visit(clause.pred)
    return min(lengths, default=None)


def _require(spec: Spec, name: str, value: int | None) -> int:
    if value is None:
        raise SpecError([mistakes.unknown_size(spec.span, name)])
    return value


def _bound(clause: Clause, known: dict[str, int], heads: int | None = None) -> e.Pred:
    """A clause with what is known put in; ``heads`` is the number of heads that the list error speaks of."""
    try:
        return bind(clause.pred, known)
    except BadDivisor as error:
        raise SpecError([mistakes.bad_divisor(clause.span, error.args[0], known.get("h"))]) from None
    except OutsideList as error:
        at, length = error.args
        raise SpecError([mistakes.list_too_short(clause.span, at, length, known.get("h"), heads)]) from None


def _class(spec: Spec, members: tuple[int, ...] | None, known: dict[str, int]) -> HeadClass:
    attend = tuple(_pairs(clause, known) for clause in spec.attend)
    within = tuple(_pairs(clause, known) for clause in spec.within)
    where = spec.attend[0].span if spec.attend else spec.span
    try:
        with budget(*attend, *within):
            whole = Pairs.read("y >= 0")
            if attend:
                whole = whole.intersection(_union(attend))
            for restriction in within:
                whole = whole.intersection(restriction)
            return HeadClass(members, whole, attend, within)
    except TooHard:
        raise SpecError([mistakes.too_irregular(where, spec.name)]) from None


def _union(parts: tuple[Pairs, ...]) -> Pairs:
    result = parts[0]
    for part in parts[1:]:
        result = result.union(part)
    return result


def _pairs(clause: Clause, known: dict[str, int]) -> Pairs:
    pred = _bound(clause, known)
    try:
        text = condition(pred)
        with budget(large=common_divisor(pred) > LARGE):
            return Pairs.read(f"y >= 0 and ({text})")
    except NotAffine as error:
        raise SpecError([mistakes.not_affine(clause.span, str(error.node), error.why)]) from None
    except TooHard:
        raise SpecError([mistakes.too_irregular(clause.span, clause.label)]) from None
