"""Integer expressions in which all variables come times a common factor, without that factor.

>>> from attnspec.spec.expr import Int, Mul, Var
>>> eight_q, eight_k = (Mul(Int(8), Var(name)) for name in "qk")
>>> apart = e.Add((eight_q, Mul(Int(-1), eight_k), Int(2)))
>>> print(reduced(e.Cmp("==", e.Mod(apart, Int(16)), Int(2))), "|", reduced(e.Cmp("<", apart, Int(64))))
(q - k) % 2 == 0 | q - k < 8
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import TypeVar

from attnspec.spec import expr as e
from attnspec.spec import make
from attnspec.spec import real as r
from attnspec.spec.contents import reads_list

N = TypeVar("N", bound=e.Node)
Terms = Mapping[e.IntExpr, int]
"""A sum without its constant: how often each term counts."""


def reduced(node: N) -> N:
    """The same integer, predicate or real with smaller numbers: in sums, quotients, remainders and comparisons.

    Only what keeps the meaning is done: a comparison around a read outside a list or an input stays false.
    """
    return _reduced(node)  # type: ignore[return-value]  # an integer stays one, and so do predicates and reals


def _reduced(node: e.Node) -> e.Node:
    node = node.map(_reduced)
    match node:
        case e.Add() | e.Mul():
            return _sum(*_terms(node))
        case e.FloorDiv(left, e.Int(by)) if by > 0:
            terms, rest = _terms(left)
            g = math.gcd(by, *terms.values())
            return make.divide(_sum(_divided(terms, g), rest // g), e.Int(by // g))
        case e.Mod(left, e.Int(by)) if by > 0:
            return _remainder(left, by)
        case e.Abs(arg):
            terms, rest = _terms(arg)
            g = math.gcd(rest, *terms.values())
            return make.multiply(e.Int(g), make.absolute(_sum(_divided(terms, g), rest // g))) if g > 1 else node
        case e.Cmp(op, left, right) if not reads_list(node):
            return _compared(op, left, right)
        case e.And(args):
            return make.conjunction(args)
        case e.Or(args):
            return make.disjunction(args)
        case e.Not(arg):
            return make.negation(arg)
        case e.If(cond, then, other):
            return make.choose(cond, then, other)
        case r.Choose(cond, then, other):
            return make.real(make.choose(cond, then, other))
    return node


def _terms(x: e.IntExpr, times: int = 1) -> tuple[dict[e.IntExpr, int], int]:
    """The terms of a sum, and its constant; what is read stays even where it counts 0 times."""
    terms: dict[e.IntExpr, int] = defaultdict(int)
    constant = 0
    match x:
        case e.Int(value):
            constant = times * value
        case e.Add(parts):
            for part in parts:
                own, more = _terms(part, times)
                constant += more
                for term, count in own.items():
                    terms[term] += count
        case e.Mul(e.Int(value), other) | e.Mul(other, e.Int(value)):
            return _terms(other, times * value)
        case _:
            terms[x] = times
    return {term: count for term, count in terms.items() if count or reads_list(term)}, constant


def _sum(terms: Terms, constant: int) -> e.IntExpr:
    return make.add([*(make.multiply(e.Int(count), term) for term, count in terms.items()), e.Int(constant)])


def _divided(terms: Terms, by: int) -> Terms:
    return {term: count // by for term, count in terms.items()}


def _remainder(left: e.IntExpr, by: int) -> e.IntExpr:
    """``(g * x + c) % (g * m)`` is ``g * ((x + c // g) % m) + c % g``."""
    terms, rest = _terms(left)
    g = math.gcd(by, *terms.values())
    inner = _sum(_divided(terms, g), rest // g % (by // g))
    return _sum(*_terms(make.add([make.multiply(e.Int(g), make.modulo(inner, e.Int(by // g))), e.Int(rest % g)])))


def _compared(op: str, left: e.IntExpr, right: e.IntExpr) -> e.Pred:
    """A comparison, divided by what all its terms have in common."""
    (ours, here), (theirs, there) = _terms(left), _terms(right)
    terms = {term: ours.get(term, 0) - theirs.get(term, 0) for term in dict.fromkeys((*ours, *theirs))}
    terms, rest = {term: count for term, count in terms.items() if count}, here - there
    g = math.gcd(*terms.values())
    if not terms or (rest % g and op in ("==", "!=")):
        return e.Bool(e.COMPARE[op](rest, 0))
    if g == 1:
        return e.Cmp(op, left, right)
    moved = rest // g if op in ("<", ">=") else -(-rest // g)
    over = _divided({term: count for term, count in terms.items() if term in ours}, g)
    other = _divided({term: -count for term, count in terms.items() if term not in ours}, g)
    return make.compare(op, _sum(over, 0), _sum(other, -moved))
