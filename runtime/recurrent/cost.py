"""What a model over segments runs, computes and keeps, before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.analysis.segments import segmented
from attnspec.relation.lower import sizes_needed
from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.recurrent.segment import Segments


@dataclass(frozen=True)
class Cost:
    """What ``n`` tokens in each of ``batch`` entries take, forward.

    ``positions`` go through the model, those of axes beside the tokens and of summaries among them; ``pairs`` are those
    that a head of a layer attends over in one batch entry, or all heads in all entries where the pattern tells them
    ``apart``. ``operations`` are two for each number that a position is multiplied by (embeddings are
    looked up) and four for each pair and dimension of heads, a multiply-add being two. ``carried_bytes`` is what one
    segment hands to the next when all of it is there; ``kept_bytes`` what training keeps for the backward pass where
    segments are run again: what each of them gave to those after. What a function
    hides, or a model that is not attention alone, is None.
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
    apart: bool

    def __str__(self) -> str:
        most = "" if self.exact else "at most "
        of = "layer, all heads and batch entries together" if self.apart else "head, layer and batch entry"
        return "\n".join(
            [
                f"cost at n = {self.n:,}, batch {self.batch}: {self.segments:,} segments",
                f"    positions  {most}{self.positions:,} run, {self.positions / self.n:.3f} for each token",
                f"    pairs      {most}{self.pairs:,} for each {of}",
                f"    forward    {_said(self.operations, 1e9, 'GFLOP')}",
                f"    carried    {_said(self.carried_bytes, 1e6, 'MB from segment to segment')}",
                f"    kept       {_said(self.kept_bytes, 1e6, 'MB for backward, where segments are run again')}",
            ]
        )


def _said(number: int | None, unit: float, words: str) -> str:
    return "not known: the model hides it" if number is None else f"{number / unit:,.3f} {words}"


def cost(run: Segments, n: int, batch: int, heads: int | None) -> Cost:
    """See :meth:`Recurrent.cost`."""
    shape, name = run.decoder.shape(), run.pattern.spec.name
    if shape is not None and heads not in (None, shape.heads):
        raise CallError(f"{name}: the model has {shape.heads} heads, not {heads}")
    own, kv_heads = (heads, heads) if shape is None else (shape.heads, shape.kv_heads)
    apart = _apart(run)
    if apart and own is None:
        raise CallError(f"{name}: heads or batch entries are told apart, and a function hides how many heads: heads=")
    sizes = Sizes(1, 1, own or 1, kv_heads or 1, batch) if apart else Sizes(1, 1)
    relation = run.pattern.attend.relation_for(heads=sizes.heads, kv_heads=sizes.kv_heads, batch=sizes.batch)
    found = segmented(relation, n, sizes)
    operations = None
    if shape is not None:
        attended = found.pairs if apart else found.pairs * shape.heads * batch
        through = shape.numbers * found.positions + shape.of_head * n
        operations = 2 * batch * through + 4 * shape.layers * shape.dim * attended
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
        apart,
    )


def _apart(run: Segments) -> bool:
    """Whether some head or batch entry sees other pairs than the rest."""
    attend = run.pattern.attend
    if sizes_needed(attend.spec):
        return True
    return any(attend.relation.varies(item, by) for item in attend.relation.classes for by in "hb")
