"""What a kernel computes backward of a score expression, for any target.

>>> from attnspec.spec.expr import Var
>>> by = slopes(r.Total((r.Score(), r.RealRead("bias", (Var("h"), Var("k"))))))
>>> [(entry.name, sorted(entry.moves)) for entry in by.entries]
[('bias', ['k'])]
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from attnspec.codegen.expressions.arguments import arguments, is_argument
from attnspec.codegen.expressions.statements import Statements
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec import real as r


@dataclass(frozen=True)
class Entry:
    """An entry of a float input that a score reads, and the derivative by it."""

    name: str
    indices: tuple[e.IntExpr, ...]
    slope: r.RealExpr

    @property
    def moves(self) -> frozenset[str]:
        """Which of ``q`` and ``k`` the entry's place depends on: none, if it is the same for all pairs of a head."""
        return frozenset().union(*map(contents.free, self.indices)) & e.POSITIONS


@dataclass(frozen=True)
class Slopes:
    """The derivative by the score before all score lines (None: it is not read), and by each distinct entry."""

    score: r.RealExpr | None
    entries: tuple[Entry, ...]


def slopes(real: r.RealExpr) -> Slopes:
    """The derivatives of a score over its arguments, in the order in which the entries are read."""
    by = arguments(real).slopes
    entries = (Entry(leaf.name, leaf.indices, slope) for leaf, slope in by.items() if isinstance(leaf, r.RealRead))
    return Slopes(by.get(r.Score()), tuple(entries))


def contribution(body: Statements, entry: Entry) -> tuple[list[str], str]:
    """The indices of an entry, and what a pair adds to the gradient there; 0 where an index has no value."""
    indices, ok = body.indices(entry.indices)
    amount = scaled(body, entry.slope)
    return indices, amount if ok is None else body.syntax.choose(ok, amount, body.syntax.zero)


def scaled(body: Statements, slope: r.RealExpr) -> str:
    """The incoming gradient ``g`` times a derivative; 0 where the gradient is 0."""
    if slope == r.Real(1.0):
        return "g"
    factor = body.real(slope)
    return body.named(f"g * {factor}" if _finite(slope) else body.syntax.guarded(factor))


def _finite(real: r.RealExpr) -> bool:
    """Whether a real surely is finite, so that 0 times it is 0."""
    match real:
        case r.Real(value):
            return math.isfinite(value)
        case r.Cast():
            return True
        case r.RealRead(name):
            return is_argument(name)
        case r.Total() | r.Product():
            return all(_finite(child) for child in real.children() if isinstance(child, r.RealExpr))
    return False
