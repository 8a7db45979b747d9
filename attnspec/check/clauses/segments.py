"""How segments follow one another: ``recur``, ``carry``, ``recall`` and ``horizon``."""

from __future__ import annotations

from dataclasses import dataclass, field

from attnspec.check.clauses.carried import Beside, Carries, Declared, Recalls
from attnspec.check.expressions import options
from attnspec.check.expressions.elaborator import Elaborator
from attnspec.check.expressions.options import Option
from attnspec.check.expressions.scope import Scope
from attnspec.errors.catalogue import did_you_mean
from attnspec.errors.clauses import segments_mistake
from attnspec.language import tree as t
from attnspec.spec.recurrence import Carry, Recall, Recur, Recurrence

RECALLS = {"summary": {"part": Option("real", None, 0, above=True, high=1), "dim": Option("int", None, 1)}}
"""How a store may be asked, with the options."""


@dataclass
class Segments:
    """The lines so far, in their order, each with its value: None where it has none, or is wrong or not known yet."""

    recurs: list[tuple[t.Recur, int | None]] = field(default_factory=list)
    carries: Carries = field(default_factory=list)
    recalls: Recalls = field(default_factory=list)
    horizons: list[tuple[t.Horizon, int | None]] = field(default_factory=list)
    first: t.Following | None = None
    lost: bool = False
    """Whether there may be a line ``recur`` that did not parse."""

    def add(self, el: Elaborator, node: t.Following, scope: Scope) -> None:
        """One more line."""
        self.first = self.first or node
        self.lost = "recur" in scope.module.lost
        match node:
            case t.Recur():
                if node.ragged is not None and node.ragged.name not in ("first", "last"):
                    close = did_you_mean(node.ragged.name, ["first", "last"])
                    title = f"there is no `ragged {node.ragged.name}`"
                    el.wrong(segments_mistake(node.ragged.span, title, "expected `first` or `last`", help=close))
                self.recurs.append((node, _constant(el, node.size, scope, "the length of a segment", 1)))
            case t.Carry():
                what = "how many positions are kept"
                self.carries.append((node, None if node.last is None else _constant(el, node.last, scope, what, 0)))
            case t.Recall():
                settings = options.read(el, node.by, RECALLS, "recall", scope) or {}
                part, dim = settings.get("part"), settings.get("dim")
                known = isinstance(part, (int, float)) and isinstance(dim, int)
                self.recalls.append((node, (float(part), dim) if known else None))  # type: ignore[arg-type]
            case t.Horizon():
                self.horizons.append((node, _constant(el, node.count, scope, "a horizon", 1)))

    def together(self, el: Elaborator, declared: Declared) -> Recurrence | None:
        """What the lines come to, beside the axes of the attention; None without lines, or after a mistake."""
        if self.first is None or (self.lost and not self.recurs):
            return None
        if not self.recurs:
            word = type(self.first).__name__.lower()
            title, help = f"`{word}` has no meaning without `recur`", "say what comes in segments: `recur token by 512`"
            el.wrong(segments_mistake(self.first.span, title, "there are no segments", help=help))
            return None
        if not declared:
            help = "declare the tokens, and what stands beside them in a segment: `axis token[n]`"
            title = "`recur` has no meaning without axes"
            el.wrong(segments_mistake(self.recurs[0][0].span, title, "no axis is declared", help=help))
            return None
        recur, size = self.recurs[0]
        beside = Beside(el, {axis.name: (axis, span) for axis, span in declared}, recur, self.carries, self.recalls)
        beside.once([node for node, _ in self.recurs], [node for node, _ in self.horizons])
        beside.check(size)
        if el.shallow or not beside.fine or size is None:
            return None
        carries = tuple(
            Carry(n.source.name, tuple(x.name for x in n.targets), last, n.by_layer, n.detached)
            for n, last in self.carries
        )
        recalls = (
            Recall(tuple(x.name for x in n.targets), n.store.name, *values) for n, values in self.recalls if values
        )
        ragged = "last" if recur.ragged is None else recur.ragged.name
        horizon = self.horizons[0][1] if self.horizons else None
        return Recurrence(Recur(recur.axis.name, size, ragged), carries, next(recalls, None), horizon)


def _constant(el: Elaborator, tree: t.Expr, scope: Scope, what: str, least: int) -> int | None:
    """A number that follows from the parameters."""
    value = el.constant(tree, scope, what)
    if value is not None and value < least:
        el.wrong(segments_mistake(tree.span, f"{what} must be at least {least}", f"this is {value}"))
        return None
    return value
