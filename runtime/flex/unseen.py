"""Scores of minus infinity: pairs that are not seen, which the language says beside scores and not in them.

>>> causal = e.Cmp("<=", e.Var("k"), e.Var("q"))
>>> seen, score = apart(r.Choose(causal, r.Score(), r.Real(-math.inf)))
>>> print(seen, score, sep=", ")
k <= q, s
"""

from __future__ import annotations

import math

from attnspec.runtime.flex.bits import Unlike
from attnspec.spec import contents, make
from attnspec.spec import expr as e
from attnspec.spec import real as r

NEVER = r.Real(-math.inf)


def apart(score: r.RealExpr) -> tuple[e.Pred, r.RealExpr]:
    """Where a score is not minus infinity, and what it is there.

    Raises Unlike where that takes more than conditions on positions and integers.
    """
    seen, finite = _apart(score)
    if any(isinstance(part, (r.Order, r.RealRead)) for part in contents.walk(seen)):
        raise Unlike("whether a pair is seen hangs on its score or on floats; it may on positions and integers")
    return seen, finite if finite is not None else r.Score()


def _apart(x: r.RealExpr) -> tuple[e.Pred, r.RealExpr | None]:
    if x == NEVER:
        return e.Bool(False), None
    if not any(isinstance(part, r.Real) and math.isinf(part.value) for part in contents.walk(x)):
        return e.Bool(True), x
    match x:
        case r.Choose(cond, then, other):
            (a, this), (b, that) = _apart(then), _apart(other)
            seen = make.choose_pred(cond, a, b)
            if this is None or that is None:
                return seen, that if this is None else this
            return seen, r.Choose(cond, this, that)
        case r.Total(terms):
            parts = [_apart(term) for term in terms]
            finite = [part for _, part in parts if part is not None]
            seen = make.conjunction([part for part, _ in parts])
            if len(finite) < len(parts):
                return seen, None
            left = [part for part in finite if part != r.Real(0.0)]
            return seen, make.real(make.total(left)) if left else r.Real(0.0)
        case r.Product(left, r.Real(factor)) if factor > 0:
            seen, part = _apart(left)
            return seen, None if part is None else r.Product(part, r.Real(factor))
        case r.Product(r.Real(factor), right) if factor > 0:
            seen, part = _apart(right)
            return seen, None if part is None else r.Product(r.Real(factor), part)
        case r.Quotient(left, r.Real(divisor)) if divisor > 0:
            seen, part = _apart(left)
            return seen, None if part is None else r.Quotient(part, r.Real(divisor))
    raise Unlike(
        "an infinity in a score stands where it is no pair that is left out: torch.where(seen, score, -inf) is"
    )
