"""Calls over ranks, generated: patterns of every kind that is planned, with lengths, ranks and shards."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import reject
from hypothesis import strategies as st

from attnspec.check.check import check_text
from attnspec.codegen.ranks.planned import Schedule, schedule
from attnspec.codegen.ranks.refused import CannotSplit
from attnspec.codegen.ranks.shards import KINDS
from attnspec.relation.lower import lower
from attnspec.relation.relation import Relation
from attnspec.relation.sizes import Sizes

PATTERNS = {
    "causal": "attend causal",
    "all": "attend true",
    "window": "attend window(7)",
    "both ways": "attend |q - k| <= 5",
    "longformer": "attend |q - k| <= 3  attend q < 2  attend k < 2",
    "dilated": "attend dilated(4, 3)",
    "dilated by heads": "attend 0 <= q - k <= 4 * [1, 2, 3, 1, 2, 3][h] and (q - k) % [1, 2, 3, 1, 2, 3][h] == 0",
    "sinks": "attend sinks(2)  attend window(5)  within causal",
    "fixed": "attend segment(8)  attend k % 8 >= 6  within causal",
    "far": "attend |q - k| < 3  attend |q - k - 20| < 3  attend |k - q - 20| < 3",
    "powers": "attend powers(5)",
    "image": "attend axial(6)",
    "blocks": "attend q // 5 == k // 5",
    "documents": "input doc: int[batch, n] sorted  attend doc[q] == doc[k]  within causal",
    "padded": "input length: int[batch]  attend causal  within k < length",
    "longnet": (
        "within causal  mix (w, r) in [[8, 1], [16, 2], [32, 3]] weights detached {"
        " let taken(i) = i % w % r == h % r  attend segment(w) and taken(q) and taken(k) }"
    ),
    "odd keys": "attend k % 7 == 3 and k < q",
}


@dataclass(frozen=True)
class Call:
    """A pattern, and how a call of it is shared."""

    pattern: str
    n: int
    ranks: int
    kind: str
    chunks: int | None
    heads: tuple[int, int]
    dim: int

    def relation(self) -> Relation:
        """The relation, for its heads."""
        return lower(check_text(f"attention a {{ {PATTERNS[self.pattern]} }}"), self.heads[0])

    @property
    def sizes(self) -> Sizes:
        """As many queries as keys."""
        return Sizes(self.n, self.n, *self.heads)

    def plan(self) -> Schedule:
        """The schedule. Segments of positions taken by heads, dealt out by residue, may be too hard for the solver."""
        try:
            return schedule(self.relation(), self.sizes, self.ranks, self.kind, self.chunks, dim=self.dim)
        except CannotSplit:
            if (self.pattern, self.kind) != ("longnet", "residue"):
                raise
            reject()


@st.composite
def calls(draw: st.DrawFn, longest: int = 70) -> Call:
    pattern = draw(st.sampled_from(sorted(PATTERNS)))
    kind = draw(st.sampled_from(KINDS))
    return Call(
        pattern,
        draw(st.integers(1, longest)),
        draw(st.integers(1, 7)),
        kind,
        None if kind == "residue" else draw(st.sampled_from([None, None, 1, 3])),
        draw(st.sampled_from([(2, 1), (4, 2), (3, 3), (6, 2)])),
        draw(st.sampled_from([4, 64])),
    )
