"""Indices that count from the end where they are negative: which of them never are, for the pairs that are seen.

>>> from attnspec.spec.real import RealRead
>>> apart = e.Add((e.Var("q"), e.Mul(e.Int(-1), e.Var("k"))))
>>> either = e.If(e.Cmp("<", apart, e.Int(0)), e.Add((apart, e.Int(9))), apart)
>>> print(unwrapped(RealRead("bias", (either,)), e.Cmp(">=", e.Var("q"), e.Var("k"))))
bias[q - k]
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from attnspec.relation import effort
from attnspec.relation.condition import NotAffine, condition
from attnspec.relation.presburger import Pairs, TooHard, budget
from attnspec.runtime.flex.values import as_written, parts
from attnspec.spec import contents, make, rewrite
from attnspec.spec import expr as e
from attnspec.spec import real as r

N = TypeVar("N", bound=e.Node)
_SHARE = 0.05
"""Of a stage, for each question: twice what an index of neighbours in two dimensions takes."""


def unwrapped(node: N, seen: e.Pred | None) -> N:
    """An expression that counts for the pairs that are seen, its indices without what never happens there."""
    facts = [] if seen is None else [part for part in parts(seen) if not contents.reads(part)]
    table: dict[e.Node, e.Node] = {}
    for index in dict.fromkeys(_indices(node)):
        if never(facts, index.cond):
            table[index] = index.other
    return rewrite.replace(node, table) if table else node


def unwrapped_mask(mask: e.Pred) -> e.Pred:
    """A mask whose parts that read tensors count only where its other parts hold."""
    return make.conjunction([unwrapped(part, mask) if contents.reads(part) else part for part in parts(mask)])


def _indices(node: e.Node) -> Iterable[e.If]:
    """The indices in an expression that have two cases."""
    for part in contents.walk(node):
        if isinstance(part, (e.Read, e.Flag, e.Among, r.RealRead)):
            for index in part.indices:
                if isinstance(index, e.If) and as_written(index) is not None and not contents.reads(index):
                    yield index


def never(facts: list[e.Pred], case: e.Pred) -> bool:
    """Whether a condition holds for no pair of any call for which others hold, as far as the solver can tell."""
    try:
        text = condition(e.And((*facts, case))).text
        with effort.stage(_SHARE), budget():
            return Pairs.read(f"0 <= x < n_q and 0 <= y < n and 0 <= h and 0 <= b and ({text})").is_empty()
    except (TooHard, NotAffine):
        return False
