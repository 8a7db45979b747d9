"""Where the tiles of a union of two terms lie: two ranges, with nothing in between.

A window and the first positions of a document are far from one another in a long document: a kernel walks the tiles of
the one and then those of the other. For queries ``q_first`` to ``q_last`` the keys of these are at most

>>> from attnspec.codegen.plan.corners import POSITIONS
>>> from attnspec.spec.expr import Add, Cmp, Int, Or, Read, Var
>>> start = Cmp("<", Add((Var("k"), Int(-4))), Read("doc.first", (Var("q"),)))
>>> window = Cmp("<", Add((Var("q"), Int(-512))), Var("k"))
>>> one, other = spans([Or((start, window))], "q", "k", POSITIONS)
>>> print(one.limits[0].low, "|", one.limits[0].high)
None | -(-4 - first(doc, max(min(q_last, n - 1), 0))) - 1
>>> print(other.limits[0].low, "|", other.limits[0].high)
-(-(q_first - 512) - 1) | None
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from attnspec.codegen.plan.corners import Limit, Sides, limit, possible
from attnspec.spec import contents, make
from attnspec.spec import expr as e

ALWAYS = e.Bool(True)


@dataclass(frozen=True)
class Span:
    """Where the inner tiles of a term lie, for an outer tile: nowhere if ``alive`` does not hold of its corners."""

    limits: tuple[Limit, ...]
    alive: e.Pred


def spans(parts: Iterable[e.Pred], outer: str, inner: str, sides: Sides) -> tuple[Span, ...]:
    """The spans of the two terms of the first union of which both are known to end somewhere; else nothing.

    ``parts`` are what must hold together, ``outer`` and ``inner`` the variables of the two sides of a tile.
    """
    for part in parts:
        if isinstance(part, e.Or) and len(part.args) == 2:
            found = tuple(_span(arg, outer, inner, sides) for arg in part.args)
            if all(one.limits or one.alive != ALWAYS for one in found):
                return found
    return ()


def _span(term: e.Pred, outer: str, inner: str, sides: Sides) -> Span:
    atoms = [half for atom in (term.args if isinstance(term, e.And) else (term,)) for half in _halves(atom)]
    ends = (limit(atom, inner, sides) for atom in atoms)
    alone = (possible(atom, sides) for atom in atoms if contents.free(atom) & {outer, inner} == {outer})
    return Span(tuple(end for end in ends if end is not None and end.plain), make.conjunction(list(alone)))


def _halves(atom: e.Pred) -> tuple[e.Pred, ...]:
    """A comparison as what must hold together: ``|x| < y`` is ``x < y`` and ``x > -y``."""
    match atom:
        case e.Cmp("<" | "<=" as op, e.Abs(x), y) | e.Cmp(">" | ">=" as op, y, e.Abs(x)):
            below, above = op.replace(">", "<"), op.replace("<", ">")
            return e.Cmp(below, x, y), e.Cmp(above, x, make.negative(y))
    return (atom,)
