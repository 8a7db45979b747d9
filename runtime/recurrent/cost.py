"""What a model over segments runs, computes and keeps, before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.analysis.segments import segmented
from attnspec.relation.sizes import Sizes
from attnspec.runtime.recurrent.segment import Segments


@dataclass(frozen=True)
class Cost:
    """What ``n`` tokens in each of ``batch`` entries take, forward.

    ``positions`` go through the model, those of axes beside the tokens and of summaries among them; ``pairs`` are those
    that a head attends over. ``operations`` are two for each number that a position is multiplied by (embeddings are
    looked up) and four for each pair and dimension of heads, a multiply-add being two. ``carried_bytes`` is what one
    segment hands to the next when all of it is there; ``kept_bytes`` what training keeps for the backward pass where
    segments are run again: what each of them gave to those after. What a function hides is None.
    """

    n: int
    batch: int
    segments: int
    positions: int
    pairs: int
    operations: int | None
    carried_bytes: int | None
    kept_bytes: int | None
    exact: bool

    def __str__(self) -> str:
        most = "" if self.exact else "at most "
        return "\n".join(
            [
                f"cost at n = {self.n:,}, batch {self.batch}: {self.segments:,} segments",
                f"    positions  {most}{self.positions:,} run, {self.positions / self.n:.3f} for each token",
                f"    pairs      {most}{self.pairs:,} for each head, layer and batch entry",
                f"    forward    {_said(self.operations, 1e9, 'GFLOP')}",
                f"    carried    {_said(self.carried_bytes, 1e6, 'MB from segment to segment')}",
                f"    kept       {_said(self.kept_bytes, 1e6, 'MB for backward, where segments are run again')}",
            ]
        )


def _said(number: int | None, unit: float, words: str) -> str:
    return "not known: a function hides it" if number is None else f"{number / unit:,.3f} {words}"


def cost(run: Segments, n: int, batch: int) -> Cost:
    """See :meth:`Recurrent.cost`."""
    found = segmented(run.pattern.attend.relation, n, Sizes(1, 1))
    shape = run.decoder.shape()
    operations = None
    if shape is not None:
        per_entry = 2 * shape.numbers * found.positions + 2 * shape.of_head * n + 4 * shape.attended * found.pairs
        operations = batch * per_entry
    carried = kept = 0
    for each in found.kept:
        numbers = run.own.width if not each.carry.by_layer else shape.layered if shape else 0
        one = run.own.element * batch * numbers
        carried += one * each.positions
        kept += one * min(each.positions, run.given(each.carry)) * found.segments
    known = shape is not None or run.layered is None
    return Cost(
        n,
        batch,
        found.segments,
        found.positions,
        found.pairs,
        operations,
        carried if known else None,
        kept if known else None,
        found.exact,
    )
