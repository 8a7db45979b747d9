"""From a checked pattern to its relation: every predicate becomes a set of pairs.

What is not affine is made affine where the language allows it: lists and conditional values by case distinction, bound
names by an existential variable or one by one, factors and divisors that depend on the head by one relation per class
of heads. What only the contents of inputs decide, products of positions, and comparisons that are too hard for the
solver are left open: they are in the set of pairs that are possible, not in the set of those that are certain.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass

from attnspec.errors import relations as mistakes
from attnspec.errors.diagnostic import SpecError
from attnspec.errors.values import ranges_too_large
from attnspec.relation.condition import NotAffine, common_divisor, condition, hardest, head_constants
from attnspec.relation.documents import plain
from attnspec.relation.effort import stage
from attnspec.relation.presburger import Pairs, TooHard, budget
from attnspec.relation.relation import HeadClass, Part, Relation, scalar_reads, union
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.bind import BadDivisor, LargeRange, OutsideList, bind
from attnspec.spec.heads import lists_by_head
from attnspec.spec.parts import Branch, Clause
from attnspec.spec.rewrite import replace
from attnspec.spec.spec import Spec
from attnspec.spec.unroll import require_ranges

_OWN_HEAD = e.Var("own h")
"""Stands for ``h`` as an index of an input while the class's head is bound: heads that read their own entry of an input
may still share a class."""


@stage()
def lower(spec: Spec, heads: int | None = None, kv_heads: int | None = None, batch: int | None = None) -> Relation:
    """The relation of a pattern, symbolic in the lengths and, where heads differ only affinely, in the head.

    ``heads``, ``kv_heads`` and ``batch`` need be given only where the pattern is not affine in them.
    Raises SpecError where a clause is not affine or clauses together are beyond the solver's operation limit.
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
        classes[tuple(_bound(c, {**known, "h": h}, total) for c in _clauses(spec))].append(h)
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
    return frozenset().union(*(head_constants(c.pred) for c in _clauses(spec)))


def listed_heads(spec: Spec) -> int | None:
    """The number of heads that the pattern's lists (those indexed by ``h``) are written for; None if there are none."""
    nodes = (node for clause in _clauses(spec) for node in contents.walk(clause.pred))
    lists = (node for node in nodes if isinstance(node, (e.Index, e.Values)))
    read = (*lists, *lists_by_head(spec))
    lengths = (len(node.items) for node in read if node.indices and node.indices[0] == e.Var("h"))
    return min(lengths, default=None)


def _require(spec: Spec, name: str, value: int | None) -> int:
    if value is None:
        raise SpecError([mistakes.unknown_size(spec.span, name)])
    return value


def _clauses(spec: Spec) -> tuple[Clause, ...]:
    """All clauses of all branches; those that branches share come once for each."""
    return tuple(clause for branch in spec.branches for clause in (*branch.attend, *branch.within))


def _bound(clause: Clause, known: dict[str, int], heads: int | None = None) -> e.Pred:
    """A clause with what is known put in; ``heads`` is the number of heads that the list error speaks of."""
    try:
        bound = _bind(clause.pred, known)
        require_ranges(bound, known)
        return bound
    except BadDivisor as error:
        raise SpecError([mistakes.bad_divisor(clause.span, error.args[0], known.get("h"))]) from None
    except LargeRange as error:
        raise SpecError([ranges_too_large(clause.span, error.args[0])]) from None
    except OutsideList as error:
        at, length = error.args
        raise SpecError([mistakes.list_too_short(clause.span, at, length, known.get("h"), heads)]) from None


def _bind(pred: e.Pred, known: dict[str, int]) -> e.Pred:
    """A predicate with what is known put in, but for the ``h`` that is an index of an input."""
    if "h" not in known:
        return bind(pred, known)
    bound = bind(_hide_heads(pred), known)
    return replace(bound, {_OWN_HEAD: e.Var("h")})


def _hide_heads(pred: e.Pred) -> e.Pred:
    """A predicate in which ``h`` goes by another name where it is an index of an input."""

    def hide(node: e.Node) -> e.Node:
        own = node.indices if isinstance(node, (e.Read, e.Flag, e.Among)) else ()
        return node.map(lambda part: _OWN_HEAD if part == e.Var("h") and part in own else hide(part))

    return hide(pred)  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class _Bounds:
    """The pairs that a clause may hold for and those that it must hold for: one object where it is exact."""

    most: Pairs
    least: Pairs
    unknown: tuple[e.Pred, ...] = ()


def _class(spec: Spec, members: tuple[int, ...] | None, known: dict[str, int]) -> HeadClass:
    item = HeadClass(members, tuple(_part(spec, branch, known) for branch in spec.branches))
    try:
        with budget(*(part.pairs for part in item.parts)):
            _ = item.pairs, item.sure  # computed here, where a limit can be reported
    except TooHard:
        raise SpecError([mistakes.too_irregular(spec.span, spec.name)]) from None
    return item


def _part(spec: Spec, branch: Branch, known: dict[str, int]) -> Part:
    given = tuple(clause.pred for clause in branch.within)
    attend = tuple(_bounds(spec, clause, known, given) for clause in branch.attend)
    within = tuple(_bounds(spec, clause, known) for clause in branch.within)
    where = branch.attend[0].span if branch.attend else spec.span
    most = tuple(c.most for c in attend), tuple(c.most for c in within)
    unknown = tuple(dict.fromkeys(atom for c in (*attend, *within) for atom in c.unknown))
    try:
        with budget(*most[0], *most[1]):
            pairs = _whole(*most)
        sure = pairs if not unknown else _surely(tuple(c.least for c in attend), tuple(c.least for c in within))
    except TooHard:
        raise SpecError([mistakes.too_irregular(where, spec.name)]) from None
    return Part(plain(_bind(branch.pred, known), given), pairs, sure, *most, branch.times, unknown)


def _whole(attend: tuple[Pairs, ...], within: tuple[Pairs, ...]) -> Pairs:
    whole = Pairs.read("y >= 0")
    if attend:
        whole = whole.intersection(union(attend))
    for restriction in within:
        whole = whole.intersection(restriction)
    return whole


def _bounds(spec: Spec, clause: Clause, known: dict[str, int], given: tuple[e.Pred, ...] = ()) -> _Bounds:
    pred = plain(_bound(clause, known), given)
    hard = hardest(pred)
    try:
        for left_open in ((), hard, (pred,)) if hard else ((), (pred,)):
            with suppress(TooHard):
                return _bounds_but_for(spec, pred, left_open)
    except NotAffine as error:
        raise SpecError([mistakes.not_affine(clause.span, str(error.node), error.why)]) from None
    raise SpecError([mistakes.too_irregular(clause.span, clause.label)])


def _bounds_but_for(spec: Spec, pred: e.Pred, hard: tuple[e.Pred, ...]) -> _Bounds:
    """The bounds of a predicate of which some parts are left open. Raises TooHard, NotAffine."""
    scalars, slots = scalar_reads(spec), spec.order is not None
    divisor = 1 if hard == (pred,) else common_divisor(pred)
    most = condition(pred, True, scalars, slots, hard)
    with budget(numbers=divisor):
        pairs = Pairs.read(f"y >= 0 and ({most.text})")
    if not most.unknown:
        return _Bounds(pairs, pairs)
    least = condition(pred, False, scalars, slots, hard)
    return _Bounds(pairs, _or_nothing(f"y >= 0 and ({least.text})", divisor), most.unknown)


def _or_nothing(text: str, divisor: int) -> Pairs:
    """The pairs of a condition; none, where they are more than the solver's budget allows: then none are certain."""
    try:
        with budget(numbers=divisor):
            return Pairs.read(text)
    except TooHard:
        return Pairs.read("false")


def _surely(attend: tuple[Pairs, ...], within: tuple[Pairs, ...]) -> Pairs:
    """The pairs that are certain; none, where they are more than the solver's budget allows."""
    try:
        with budget(*attend, *within):
            return _whole(attend, within)
    except TooHard:
        return Pairs.read("false")
