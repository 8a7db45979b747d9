"""What ``attnspec inspect`` says of a pattern of segments: of each, of the whole sequence, and of what lies between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from attnspec.analysis.causal import why_not_causal
from attnspec.analysis.segment_reach import SegmentReach, segment_reach
from attnspec.analysis.segments import Kept, Run, Segmented, segmented
from attnspec.relation.relation import Relation
from attnspec.relation.sizes import Sizes
from attnspec.report.units import count, plural, quantity
from attnspec.spec.spec import Spec

if TYPE_CHECKING:
    from rich.console import Console

_FEW = 5
"""Kinds of segments that are shown, each in a row; of more the first, those at the end and how many are between."""


@dataclass(frozen=True)
class Following:
    """How segments follow one another over a whole sequence; of one layer, for vectors of ``width`` numbers.

    ``own`` is why a model must take its attention from the pattern: empty where each segment is plain causal.
    """

    spec: Spec
    whole: Segmented
    reach: SegmentReach
    own: str
    dim: int
    width: int
    kv_width: int
    batch: int
    itemsize: int

    def operations(self, pairs: int) -> int:
        """Those of the forward pass over some pairs, in a layer."""
        return 4 * self.dim * pairs

    def bytes(self, kept: Kept) -> int:
        """What a carry keeps: vectors of the model, or keys and values of one layer."""
        width = 2 * self.kv_width if kept.carry.by_layer else self.width
        return self.batch * kept.positions * width * self.itemsize

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        whole = self.whole
        return {
            "n": whole.n,
            "segments": whole.segments,
            "exact": whole.exact,
            "positions": whole.positions,
            "pairs": whole.pairs,
            "flops": self.operations(whole.pairs),
            "runs": [
                {**asdict(run), "present": dict(run.present), "flops": self.operations(run.pairs)} for run in whole.runs
            ],
            "kept": [
                {
                    "carry": str(kept.carry),
                    "positions": kept.positions,
                    "by_layer": kept.carry.by_layer,
                    "detached": kept.carry.detached,
                    "bytes": self.bytes(kept),
                }
                for kept in whole.kept
            ],
            "reach": {
                "information": asdict(self.reach.information),
                "gradients": asdict(self.reach.gradients),
            },
            "plain_causal": not self.own,
            "why_not_causal": self.own,
        }


def following(relation: Relation, n: int, sizes: Sizes, dim: int, itemsize: int) -> Following:
    """Ask everything of a pattern of segments. Raises what :func:`segmented` and :func:`segment_reach` do."""
    whole, reach = segmented(relation, n, sizes), segment_reach(relation)
    widths = (sizes.heads * dim, sizes.kv_heads * dim)
    return Following(relation.spec, whole, reach, why_not_causal(relation), dim, *widths, sizes.batch, itemsize)


def in_all(found: Following) -> str:
    """What it comes to, in one line: beside the operations of all pairs of the whole sequence."""
    whole = found.whole
    least, most = ("", "") if whole.exact else ("at least ", "at most ")
    said = f"{whole.n:,} tokens in {plural(whole.segments, 'segment')}: {most}{whole.positions:,} positions run"
    fewer = whole.n**2 * (found.width // found.dim) * found.batch / whole.pairs if whole.pairs else 0.0
    if fewer < 1.05:
        return said
    return f"{said}; {least}{fewer:,.{0 if fewer >= 10 else 1}f}x fewer operations than all pairs of them take"


def show(found: Following, console: Console) -> None:
    """Print it."""
    from attnspec.report.figures import show_table, table

    whole = found.whole
    most = "" if whole.exact else "at most "
    console.print(f"segments  {plural(whole.segments, 'segment')} for n = {whole.n:,}", style="bold", soft_wrap=True)
    grid = table(gap=2)
    grid.add_row(
        "",
        "tokens",
        "positions run",
        *(["keys before"] if _memory(found) else []),
        "pairs",
        "operations on them, a layer",
    )
    for row in _rows(found, most):
        grid.add_row(*row)
    show_table(grid, console)
    if any(run.summary for run in whole.runs):
        read = sum(run.times * run.summary for run in whole.runs)
        console.print(f"  of the positions {count(read)} are those of summaries, run to ask the store", soft_wrap=True)
    console.print()
    console.print("kept between segments" if whole.kept else "kept between segments  nothing", style="bold")
    for kept in whole.kept:
        what = "keys and values of each layer" if kept.carry.by_layer else "vectors of the model"
        size = f"{quantity(found.bytes(kept), 'B')}{' a layer' if kept.carry.by_layer else ''}"
        console.print(f"  {kept.carry}: {plural(kept.positions, 'position')}, {what}, {size}", soft_wrap=True)
    console.print()
    console.print("reach", style="bold", end="  ")
    console.print(f"{found.reach}\n", soft_wrap=True)
    console.print("mask of a segment", style="bold", end="  ")
    own = "plain causal: the attention of any decoder serves"
    if found.own:
        own = f"not plain causal: {found.own}; a model takes its attention from attnspec"
    console.print(f"{own}\n", soft_wrap=True)


def _memory(found: Following) -> bool:
    """Whether there are keys from before that no position of the segment has."""
    return any(not axis.queries for axis in found.spec.axes)


def _rows(found: Following, most: str) -> Iterator[list[str]]:
    """The kinds of segments, and all together."""
    runs = found.whole.runs
    first = 1
    for number, run in enumerate(runs):
        hidden = len(runs) > _FEW and 2 <= number < len(runs) - 2
        if not hidden:
            yield [_named(first, run.times), f"{run.tokens:,}", *_figures(found, run)]
        elif number == 2:
            last = first + sum(run.times for run in runs[2:-2]) - 1
            yield [f"{first:,} to {last:,}", "..."]
        first += run.times
    whole = found.whole
    memory = [""] if _memory(found) else []
    flops = quantity(found.operations(whole.pairs), "FLOP")
    yield ["whole", f"{whole.n:,}", f"{most}{count(whole.positions)}", *memory, f"{most}{count(whole.pairs)}", flops]


def _named(first: int, times: int) -> str:
    return f"segment {first:,}" if times == 1 else f"{first:,} to {first + times - 1:,}, each"


def _figures(found: Following, run: Run) -> list[str]:
    memory = [f"{run.memory:,}"] if _memory(found) else []
    flops = quantity(found.operations(run.pairs), "FLOP")
    return [f"{run.positions:,}", *memory, count(run.pairs), flops]
