"""The lines about vectors and scores: those of an attention, or those that a branch of a mixture has of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from attnspec.check.clauses import rotations, scores
from attnspec.check.expressions.elaborator import Elaborator
from attnspec.check.expressions.scope import Scope
from attnspec.errors.names import defined_twice
from attnspec.errors.source import Span
from attnspec.language import tree as t
from attnspec.spec import contents
from attnspec.spec.parts import Rotation
from attnspec.spec.real import RealExpr, Score

WEIGHING = (t.Score, t.Scale, t.Normalize, t.Rotate)
"""The clauses that say how pairs weigh, which a branch may have of its own."""


@dataclass
class Lines:
    """What lines about vectors and scores come to."""

    score: RealExpr = field(default_factory=Score)
    scale: float | None = None
    scaled: Span | None = None
    """Where the scale is given."""
    rotations: list[tuple[Rotation, Span]] = field(default_factory=list)
    normalized: frozenset[str] = frozenset()

    def add(self, el: Elaborator, clause: t.Clause, scope: Scope, seen: Mapping[str, Span]) -> None:
        """Take one of the WEIGHING clauses; ``seen`` are the names that the attention defines."""
        match clause:
            case t.Score():
                self.score = scores.score(el, clause, scope, self.score, seen.get("s"))
            case t.Scale(span):
                if self.scaled is not None:
                    el.wrong(defined_twice(span, "`scale`", self.scaled))
                self.scaled = self.scaled or span
                self.scale = scores.scale(el, clause, scope)
            case t.Normalize():
                self.normalized = scores.normalize(el, clause, self.normalized)
            case t.Rotate():
                rotation = rotations.rotate(el, clause, scope, seen)
                self.rotations += [(rotation, clause.span)] if rotation else []

    def beside(self, el: Elaborator, common: Lines, place: Span) -> None:
        """Check those of a branch, which stands at ``place``, beside those that hold for all branches."""
        if self.scaled is not None and common.scaled is not None:
            el.wrong(defined_twice(self.scaled, "`scale`", common.scaled))
        rotations.disjoint(el, [*common.rotations, *self.rotations])
        reads = sum(isinstance(part, Score) for part in contents.walk(self.score))
        el.spend(reads * contents.measure(common.score)[0], place)
