"""The exact set of pairs that a pattern allows, and the questions one may ask of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from attnspec.presburger import Pairs, budget
from attnspec.sizes import Sizes
from attnspec.spec import Spec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from attnspec.pieces import Piece


@dataclass(frozen=True, eq=False)
class HeadClass:
    """Heads that share one set of pairs, as a set with parameters.

    ``heads`` are its members, or None for all heads (the set may then depend on the parameter ``h``). ``attend`` and
    ``within`` are the sets of the single clauses.
    """

    heads: tuple[int, ...] | None
    pairs: Pairs
    attend: tuple[Pairs, ...]
    within: tuple[Pairs, ...]

    def members(self, heads: int) -> tuple[int, ...]:
        """The heads of this class in a call that has ``heads`` of them."""
        return tuple(range(heads)) if self.heads is None else tuple(h for h in self.heads if h < heads)


@dataclass(frozen=True, eq=False)
class Relation:
    """The pairs ``(q, k)``, ``k >= 0``, of a pattern for every length at once: one set per class of heads."""

    spec: Spec
    classes: tuple[HeadClass, ...]
    known: tuple[tuple[str, int], ...] = ()
    """Sizes that the relation was built for, because the pattern is not affine in them: heads, kv_heads, batch."""

    def of_head(self, h: int) -> HeadClass:
        """The class of a head."""
        for item in self.classes:
            if item.heads is None or h in item.heads:
                return item
        raise IndexError(f"{self.spec.name} is defined for {self.heads} heads; there is no head {h}")

    @cached_property
    def heads(self) -> int | None:
        """The number of heads the relation is defined for; None if for any."""
        members = [item.heads for item in self.classes]
        return None if None in members else sum(len(m) for m in members if m is not None)

    def at(self, sizes: Sizes, h: int = 0, b: int = 0, pairs: Pairs | None = None) -> tuple[Piece, ...]:
        """The pairs of one head of one call (or of other ``pairs`` of that head), cut at the call's rows and keys."""
        chosen = self.of_head(h).pairs if pairs is None else pairs
        with budget(chosen):
            return chosen.intersection(box(sizes)).fix(**sizes.parameters(h, b)).pieces()

    def mask(self, sizes: Sizes) -> NDArray[np.bool_]:
        """The pairs as a mask, (batch, heads, n_q, n), bool: for tests and pictures."""
        import numpy as np

        from attnspec.pieces import runs

        first = self.spec.offset(sizes.n, sizes.n_q)
        out = np.zeros((sizes.batch, sizes.heads, sizes.n_q, sizes.n), dtype=bool)
        for b in range(sizes.batch):
            for h in range(sizes.heads):
                for run in runs(self.at(sizes, h, b), sizes.n_q, first):
                    for x, low, high in zip(run.x, run.low, run.high, strict=True):
                        out[b, h, x - first, low : high + 1 : run.step] = True
        return out

    def __str__(self) -> str:
        lines = [f"relation {self.spec.name}"]
        for item in self.classes:
            who = "all heads" if item.heads is None else f"heads {', '.join(map(str, item.heads))}"
            lines.append(f"    {who}: {item.pairs.show('q', 'k')}")
        return "\n".join(lines)


def box(sizes: Sizes) -> Pairs:
    """The pairs of rows and keys that a call has."""
    return Pairs.read(f"{sizes.first} <= x < {sizes.first + sizes.n_q} and 0 <= y < {sizes.n}")
