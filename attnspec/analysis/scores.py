"""Scores of softmax as sums of products, a decay among them, so that two formulas that say the same are seen to.

>>> from attnspec.check.check import check_text
>>> lines = "score s - 0.5 * (q - k)", "decay -0.5", "score 0.5 * k + (s - q / 2.0)", "decay -0.25"
>>> first, *others = (check_text(f"attention a {{ attend causal  {line} }}") for line in lines)
>>> [same_scores(first, other) for other in others]
[True, True, False]
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from itertools import product

from attnspec.analysis.past import ahead
from attnspec.relation.lower import listed_heads, lower
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec import real as r
from attnspec.spec.spec import Spec
from attnspec.spec.weights import SOFTMAX, STEP

Terms = dict[tuple[str, ...], Fraction]
"""Coefficients of products, each the texts of its factors in order."""


def same_scores(first: Spec, second: Spec) -> bool:
    """Whether it is proven that score and `decay` lines of two patterns of softmax come to the same scores."""
    found = _terms_of(first)
    return found is not None and found == _terms_of(second)


def _terms_of(spec: Spec) -> Terms | None:
    """All that is added up to a score; None for weights beyond that."""
    decay = spec.weights.decay
    if spec.mixture or replace(spec.weights, decay=None) != SOFTMAX:
        return None
    terms = _terms(r.valued(spec.score))
    if decay is None:
        return terms
    if STEP.name in contents.free(decay) or spec.weights.by_channel:
        return None  # what is added is a sum over steps that differ
    steps: e.IntExpr = e.Add((e.Var("q"), e.Mul(e.Int(-1), e.Var("k"))))
    steps = steps if ahead(lower(spec, listed_heads(spec))) is None else e.Abs(steps)
    return _sum((terms, _terms(r.Product(r.valued(decay), r.Cast(steps)))))


def _terms(node: e.Node) -> Terms:
    match node:
        case r.Real(value) | e.Int(value):
            return {(): Fraction(value)} if value else {}
        case r.Cast(arg):
            return _terms(arg)
        case r.Total(terms) | e.Add(terms):
            return _sum(map(_terms, terms))
        case r.Product(left, right) | e.Mul(left, right):
            return _product(_terms(left), _terms(right))
        case r.Quotient(left, r.Real(value)) if value:
            return _product(_terms(left), {(): 1 / Fraction(value)})
    return {(str(node),): Fraction(1)}


def _product(left: Terms, right: Terms) -> Terms:
    pairs = product(left.items(), right.items())
    return _sum({tuple(sorted(one + two)): by * times} for (one, by), (two, times) in pairs)


def _sum(parts: Iterable[Terms]) -> Terms:
    found: Terms = {}
    for part in parts:
        for factors, by in part.items():
            found[factors] = found.get(factors, Fraction(0)) + by
    return {factors: by for factors, by in found.items() if by}
