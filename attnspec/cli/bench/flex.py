"""``attnspec bench --flex``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from attnspec.cli.console import console, progress
from attnspec.spec.units import plural, quantity, seconds

if TYPE_CHECKING:
    from attnspec.runtime.bench.clock import Timing
    from attnspec.runtime.bench.flex import Made

_WIDTH = 140


def show_flex(names: tuple[str, ...], runs: int, as_json: bool) -> None:
    """Measure and print block masks of exported patterns beside PyTorch's, and imports."""
    import torch
    from rich.table import Table

    from attnspec.runtime.bench.ceilings import processor
    from attnspec.runtime.bench.flex import FASTER, LENGTH, LONGEST, SHORTER, imports, measure

    with progress("flex") as tick:
        found = [measure(name, runs, tick) for name in names]
        tick("imports")
        took = imports()
    slowest = max(took, key=lambda name: took[name])
    if as_json:
        about = {"machine": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__, "n": LENGTH}
        imported = {"seconds": took, "limit": LONGEST, "holds": took[slowest] < LONGEST}
        rows = [_plain(one, FASTER) for one in found]
        click.echo(json.dumps({**about, "block_masks": rows, "imports": imported}, indent=2))
        return
    out = console()
    out.width = max(out.width, _WIDTH)
    out.print(
        f"block masks of exported patterns, {processor()}, {plural(torch.get_num_threads(), 'thread')}, torch "
        f"{torch.__version__}; CPU time, medians of interleaved runs, and memory",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("", "n", "block_mask(n)", "create_block_mask, compiled", "", "bar", ""):
        table.add_column(title, justify="left" if not title else "right", no_wrap=True)
    for one in found:
        held = ("holds" if one.faster >= FASTER else "missed") + ("" if one.equal else ", but other blocks")
        mine, theirs, _ = (f"{seconds(t.median)}, {quantity(b, 'B')}" for t, b in _both(one))
        table.add_row(one.name, f"{LENGTH:,}", mine, theirs, f"{one.faster:.0f}x as fast", f">= {FASTER:.0f}x", held)
    out.print(table)
    for one in found:
        *_, (timing, used) = _both(one)
        click.echo(
            f"create_block_mask of {one.name}, not compiled, n = {SHORTER:,}: {seconds(timing.median)} and "
            f"{quantity(used, 'B')}, of which {LENGTH:,} would take {(LENGTH // SHORTER) ** 2} times as much"
        )
    held = "holds" if took[slowest] < LONGEST else "missed"
    click.echo(
        f"import of {len(took)} masks: {seconds(sum(took.values()) / len(took))} on average, {slowest} "
        f"{seconds(took[slowest])}, bar < {LONGEST:.0f} s each: {held}"
    )


def _both(one: Made) -> list[tuple[Timing, int]]:
    return list(zip((one.ours, one.compiled, one.eager), one.used, strict=True))


def _plain(one: Made, limit: float) -> dict[str, Any]:
    titles = ("block_mask", "create_block_mask, compiled", "create_block_mask, shorter")
    return {
        "spec": one.name,
        "seconds": {
            title: {"median": t.median, "all": list(t.seconds)}
            for title, (t, _) in zip(titles, _both(one), strict=True)
        },
        "bytes": dict(zip(titles, one.used, strict=True)),
        "same_blocks": one.equal,
        "times_faster": one.faster,
        "limit": limit,
        "holds": one.faster >= limit,
    }
