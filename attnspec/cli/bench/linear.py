"""``attnspec bench --linear``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from attnspec.cli.console import console, progress
from attnspec.spec.units import plural, quantity, seconds

if TYPE_CHECKING:
    from attnspec.runtime.bench.linear import Bar, Case, Measured

_WIDTH = 160


def show_linear(cases: tuple[Case, ...], runs: int, as_json: bool) -> None:
    """Measure and print weights by features beside what they are to be compared with."""
    import torch
    from rich.table import Table

    from attnspec.runtime.bench.ceilings import processor
    from attnspec.runtime.bench.linear import DIM, measure
    from attnspec.runtime.bench.probe import beyond

    with progress("linear") as tick:
        found = list(measure(cases, runs, tick))
        tick("memory, in fresh processes")
        memory = [(n, beyond(cases[0].text, n, 2, DIM)) for n in (2**14, 2**20)]
    machine, threads = processor(), torch.get_num_threads()
    if as_json:
        about = {"machine": machine, "threads": threads, "torch": torch.__version__, "runs": runs}
        rows = [plain(one) for one in found]
        click.echo(json.dumps({**about, "rows": rows, "bytes_beyond_tensors": dict(memory)}, indent=2))
        return
    out = console()
    out.width = max(out.width, _WIDTH)
    out.print(
        f"weights by features, dim {DIM}, float32, {machine}, {plural(threads, 'thread')}, torch {torch.__version__}; "
        f"CPU time, medians of {runs} interleaved runs",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("", "heads x n", "attnspec", "beside", "", "is", "bar", ""):
        table.add_column(title, justify="left" if title in ("", "beside") else "right", no_wrap=True)
    for one in found:
        for number, bar in enumerate(one.case.bars):
            table.add_row(*([""] * 3 if number else _named(one)), *_compared(one, bar))
    out.print(table)
    said = ", ".join(f"{quantity(used, 'B')} at {n:,} tokens" for n, used in memory)
    out.print(f"\nmemory of a forward call beyond its tensors, 2 heads: {said}", soft_wrap=True)


def _named(one: Measured) -> list[str]:
    case = one.case
    mine = seconds(one.timings["attnspec"].median) if one.timings else "-"
    return [f"{case.what}{', and backward' if case.backward else ''}", f"{case.heads} x {case.n:,}", mine]


def _compared(one: Measured, bar: Bar) -> list[str]:
    sign = {"time": "<= ", "speed": ">= ", "growth": "<= "}[bar.kind]
    limit = "" if bar.limit is None else _said(bar, bar.limit, sign)
    number = one.found(bar)
    if number is None:
        return [bar.peer, "", "", limit, "no kernel"]
    held = {True: "holds", False: "missed", None: ""}[bar.holds(number)]
    return [bar.peer, seconds(one.timings[bar.peer].median), _said(bar, number), limit, held]


def _said(bar: Bar, number: float, sign: str = "") -> str:
    if bar.kind == "growth":
        return f"{sign}n^{number:.2f}"
    return f"{sign}{number:.2f}x {'its time' if bar.kind == 'time' else 'as fast'}"


def plain(one: Measured) -> dict[str, Any]:
    """A case as plain data."""
    case = one.case
    return {
        "what": case.what,
        "spec": case.text,
        "n": case.n,
        "heads": case.heads,
        "backward": case.backward,
        "seconds": {name: {"median": t.median, "all": list(t.seconds)} for name, t in one.timings.items()},
        "missing": one.missing or None,
        "bars": [
            {"beside": bar.peer, "kind": bar.kind, "limit": bar.limit, "found": found, "holds": held}
            for bar in case.bars
            for found in [one.found(bar)]
            for held in [None if found is None else bar.holds(found)]
        ],
    }
