"""What ``attnspec inspect`` prints of a pattern of segments."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from attnspec.analysis.segments import Run
from attnspec.report.figures import show_table, table
from attnspec.report.segments import Following
from attnspec.spec.units import count, plural, quantity

if TYPE_CHECKING:
    from rich.console import Console

_FEW = 5
"""Kinds of segments that are shown, each in a row; of more the first, those at the end and how many are between."""


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
        if foreseen := found.foreseen:
            said = "tokens are read by summaries before they are predicted: a loss that counts them is optimistic"
            console.print(f"  {count(foreseen)} {said}", soft_wrap=True)
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
    yield ["whole", count(whole.n), f"{most}{count(whole.positions)}", *memory, f"{most}{count(whole.pairs)}", flops]


def _named(first: int, times: int) -> str:
    return f"segment {first:,}" if times == 1 else f"{first:,} to {first + times - 1:,}, each"


def _figures(found: Following, run: Run) -> list[str]:
    memory = [f"{run.memory:,}"] if _memory(found) else []
    flops = quantity(found.operations(run.pairs), "FLOP")
    return [f"{run.positions:,}", *memory, count(run.pairs), flops]
