"""``attnspec bench --decode``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from attnspec.cli.bench.parts import plain_parts, plain_steps, print_parts, print_steps
from attnspec.cli.console import console, progress
from attnspec.spec.units import plural, quantity, seconds

if TYPE_CHECKING:
    from attnspec.runtime.bench.decode import Decoded, Row
    from attnspec.runtime.bench.parts import Case
    from attnspec.runtime.bench.steps import Steps

_WIDTH = 120


def show_decode(rows: tuple[Row, ...], cases: tuple[Case, ...], steps: Steps, runs: int, as_json: bool) -> None:
    """Measure and print few queries beside SDPA, calls in parts, and generation step by step."""
    import torch
    from rich.table import Table

    from attnspec.runtime.bench.ceilings import processor
    from attnspec.runtime.bench.decode import measure
    from attnspec.runtime.bench.overhead import DIM, LENGTH, overheads
    from attnspec.runtime.bench.parts import measure_parts
    from attnspec.runtime.bench.steps import generate

    with progress("decode") as tick:
        found = list(measure(rows, runs, tick))
        in_parts = list(measure_parts(cases, runs, tick))
        generated = generate(steps, tick)
    prices = overheads()
    machine, threads = processor(), torch.get_num_threads()
    if as_json:
        about = {"machine": machine, "threads": threads, "torch": torch.__version__, "runs": runs}
        calls = [asdict(one) for one in prices]
        beside = {"parts": [plain_parts(one) for one in in_parts], "steps": plain_steps(generated)}
        click.echo(json.dumps({**about, "rows": [plain(one) for one in found], "overheads": calls, **beside}, indent=2))
        return
    out = console()
    out.width = max(out.width, _WIDTH)
    shapes = {f"{one.row.heads} query and {one.row.kv_heads} key heads, dim {one.row.dim}" for one in found}
    out.print(
        f"forward, {', '.join(shapes)}, {machine}, {plural(threads, 'thread')}, torch {torch.__version__}; CPU "
        f"time, medians of {runs} interleaved runs; the floor is reading the keys and values once",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("queries, keys", "", "attnspec", "SDPA", "", "is", "floor", "is"):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    for one in found:
        row = one.row
        table.add_row(
            *(f"{row.n_q} x {row.n:,}", f"{row.name} {row.dtype}", seconds(one.attnspec.median)),
            *(seconds(one.peer.median), row.peer.removeprefix("SDPA").lstrip(", "), f"{one.times:.2f}x"),
            *(f"{seconds(one.reading.median)}, {quantity(one.bandwidth)}B/s", f"{_floors(one):.2f}x"),
        )
    out.print(table)
    out.print(
        f"\nthe price of a call, {LENGTH} x {LENGTH}, one head, dim {DIM}, float32, one thread: least CPU time",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("", "", "forward", "with requires_grad"):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    for price in prices:
        table.add_row(price.what, price.spec, seconds(price.plain), seconds(price.kept))
    out.print(table)
    print_parts(out, in_parts)
    print_steps(out, generated)


def _floors(one: Decoded) -> float:
    return one.attnspec.median / one.reading.median


def plain(one: Decoded) -> dict[str, Any]:
    """A row as plain data."""
    return {
        **asdict(one.row),
        "pattern": one.row.name,
        "peer": one.row.peer,
        "seconds": {
            name: {"median": timing.median, "all": list(timing.seconds)}
            for name, timing in (("attnspec", one.attnspec), ("peer", one.peer), ("floor", one.reading))
        },
        "of_the_peer": one.times,
        "of_the_floor": _floors(one),
        "bytes": one.row.bytes,
        "bandwidth": one.bandwidth,
    }
