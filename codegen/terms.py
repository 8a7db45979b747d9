"""A predicate as a union of simpler ones, so that each can be given a layout of its own.

>>> from attnspec.check.check import check_text
>>> spec = check_text("attention a { attend q == k  attend k < 4  within causal }")
>>> [str(term) for term in terms(spec.pred)]
['q == k and k <= q', 'k < 4 and k <= q']
"""

from __future__ import annotations

from itertools import product

from attnspec.spec import expr as e
from attnspec.spec import make as s

_MOST = 16


def terms(pred: e.Pred) -> tuple[e.Pred, ...]:
    """Predicates whose union is the given one: one if it cannot be split, or into too many."""
    found = _terms(pred)
    return found if len(found) <= _MOST else (pred,)


def _terms(pred: e.Pred) -> tuple[e.Pred, ...]:
    match pred:
        case e.Or(args):
            parts = [_terms(a) for a in args]
            total = tuple(t for part in parts for t in part)
            return total if 0 < len(total) <= _MOST else (pred,)
        case e.And(args):
            choices = [_terms(a) for a in args]
            size = 1
            for choice in choices:
                size *= len(choice)
            if size > _MOST:
                return (pred,)
            return tuple(s.conjunction(list(choice)) for choice in product(*choices))
    return (pred,)
