"""Whether an index lies outside its input whatever the position: bounds of it that are linear in n and n_q.

>>> from attnspec.check.expressions.outside import always_outside
>>> always_outside(e.Add((e.Var("k"), e.Var("n"))), e.Var("n"), from_start=False)
True
>>> always_outside(e.Var("k"), e.Var("n"), from_start=False)
False
"""

from __future__ import annotations

from fractions import Fraction

from attnspec.spec import expr as e

Form = tuple[Fraction, Fraction, Fraction]
"""``a * n + b * n_q + c``."""
Bounds = tuple[Form, Form]


def always_outside(index: e.IntExpr, size: e.IntExpr, from_start: bool, longer: bool = False) -> bool:
    """Whether an index is negative, or not below the size, for all positions of all calls.

    ``from_start`` says that query row i is position i; otherwise the last query is at the last key. With ``longer``,
    of all calls that have at least twice as many keys as queries.
    """
    found, limit = _bounds(index, from_start), _bounds(size, from_start)
    if found is None:
        return False
    low, high = found
    negative = _never_positive(_plus(high, _form(0, 0, 1)), longer)
    return negative or (limit is not None and _never_positive(_minus(limit[1], low), longer))


def _never_positive(form: Form, longer: bool) -> bool:
    """Whether a form is at most 0 for all n, n_q >= 1 (all n >= 2 * n_q)."""
    a, b, c = form
    if longer:
        b, a = 2 * a + b, a  # in n_q and n - 2 * n_q, which may be 0
        return a <= 0 and b <= 0 and b + c <= 0
    return a <= 0 and b <= 0 and a + b + c <= 0


def _bounds(node: e.IntExpr, from_start: bool) -> Bounds | None:
    """The least and the largest value, where they are seen easily."""
    match node:
        case e.Int(value):
            return _form(0, 0, value), _form(0, 0, value)
        case e.Var("n"):
            return _form(1, 0, 0), _form(1, 0, 0)
        case e.Var("n_q"):
            return _form(0, 1, 0), _form(0, 1, 0)
        case e.Var("k"):
            return _form(0, 0, 0), _form(1, 0, -1)
        case e.Var("q"):
            return (_form(0, 0, 0), _form(0, 1, -1)) if from_start else (_form(1, -1, 0), _form(1, 0, -1))
        case e.Add(terms):
            parts = [_bounds(term, from_start) for term in terms]
            low = high = _form(0, 0, 0)
            for part in parts:
                if part is None:
                    return None
                low, high = _plus(low, part[0]), _plus(high, part[1])
            return low, high
        case e.Mul(e.Int(by), other) | e.Mul(other, e.Int(by)):
            inner = _bounds(other, from_start)
            if inner is None:
                return None
            ends = _times(inner[0], Fraction(by)), _times(inner[1], Fraction(by))
            return ends if by >= 0 else ends[::-1]
        case e.FloorDiv(left, e.Int(by)) if by > 0:
            inner = _bounds(left, from_start)
            if inner is None:
                return None
            low = _times(_plus(inner[0], _form(0, 0, 1 - by)), Fraction(1, by))
            if not inner[0][0] and not inner[0][1]:
                low = _form(0, 0, inner[0][2] // by)
            return low, _times(inner[1], Fraction(1, by))
        case e.Mod(_, e.Int(by)) if by > 0:
            return _form(0, 0, 0), _form(0, 0, by - 1)
    return None


def _form(a: int, b: int, c: int) -> Form:
    return Fraction(a), Fraction(b), Fraction(c)


def _plus(one: Form, other: Form) -> Form:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def _times(form: Form, by: Fraction) -> Form:
    return form[0] * by, form[1] * by, form[2] * by


def _minus(one: Form, other: Form) -> Form:
    return _plus(one, _times(other, Fraction(-1)))
