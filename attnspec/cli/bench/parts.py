"""What ``attnspec bench --decode`` prints of calls in parts, and of generation step by step."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from attnspec.spec.units import quantity, seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from attnspec.runtime.bench.parts import InParts
    from attnspec.runtime.bench.steps import End, Generated


def print_parts(out: Console, found: Sequence[InParts]) -> None:
    """A line for each way to compute each call in parts."""
    from rich.table import Table

    from attnspec.runtime.bench.parts import WHOLE

    shapes = {
        f"n = {one.case.n:,}, {one.case.heads} query and {one.case.kv_heads} key heads, dim {one.case.dim}"
        for one in found
    }
    out.print(f"\ncalls in parts beside the whole call, forward, {', '.join(shapes)}, float32", soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("", "the whole call", "as", "takes", "is", "bar", ""):
        table.add_column(title, justify="left" if title in ("", "as") else "right", no_wrap=True)
    for one in found:
        for number, (way, bar) in enumerate(one.case.bars.items()):
            whole = ("", "") if number else (one.case.pattern, seconds(one.timings[WHOLE].median))
            is_ = one.times(way)
            held = "holds" if is_ <= bar else "missed"
            table.add_row(*whole, way, seconds(one.timings[way].median), f"{is_:.3f}x", f"<= {bar:.2f}x", held)
    out.print(table)


def print_steps(out: Console, found: Generated) -> None:
    """Two lines: the first steps and the last ones."""
    of = found.steps
    out.print(
        f"\n{of.steps:,} steps of generation with a cache, window width={of.width} (full from the beginning), "
        f"{of.heads} query and {of.kv_heads} key heads, dim {of.dim}, float32: medians of the steps' CPU time",
        soft_wrap=True,
    )
    for what, end in ((f"first {of.some:,}", found.first), (f"last {of.some:,}", found.last)):
        out.print(f"{what}  {_said(end)}", soft_wrap=True)
    more = f"{found.last.held - found.first.held:+,} bytes of cache"
    out.print(f"at the end  {found.times:.2f}x the time, {more}", soft_wrap=True)


def _said(end: End) -> str:
    resident = f", {quantity(end.resident, 'B')} resident" if end.resident else ""
    return f"{seconds(end.seconds)}, cache {quantity(end.held, 'B')}{resident}"


def plain_parts(one: InParts) -> dict[str, Any]:
    """A call in parts as plain data."""
    return {
        **asdict(one.case),
        "pattern": one.case.pattern,
        "seconds": {name: {"median": t.median, "all": list(t.seconds)} for name, t in one.timings.items()},
        "bars": [
            {"as": way, "limit": bar, "found": one.times(way), "holds": one.times(way) <= bar}
            for way, bar in one.case.bars.items()
        ],
    }


def plain_steps(found: Generated) -> dict[str, Any]:
    """A generation as plain data."""
    return {**asdict(found.steps), "first": asdict(found.first), "last": asdict(found.last), "times": found.times}
