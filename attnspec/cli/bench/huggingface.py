"""``attnspec bench --hf``."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from attnspec.cli.console import console, progress
from attnspec.spec.units import seconds

if TYPE_CHECKING:
    from attnspec.runtime.bench.huggingface import Step
    from attnspec.runtime.huggingface.decoding import Row

_WIDTH = 120


def show_huggingface(runs: int, as_json: bool, rows: tuple[Row, ...] | None = None) -> None:
    """Measure and print a decoding step of layers and models of transformers, with our attention and with SDPA's."""
    if find_spec("transformers") is None:
        raise click.UsageError("--hf needs transformers: pip install 'attnspec[hf]'")
    import torch
    from rich.table import Table

    from attnspec.runtime.bench.ceilings import processor
    from attnspec.runtime.bench.huggingface import LIMIT, measure
    from attnspec.runtime.huggingface.decoding import ROWS

    with progress("hf") as tick:
        found = list(measure(ROWS if rows is None else rows, runs, tick))
    about = {"machine": processor(), "torch": torch.__version__, "transformers": version("transformers")}
    if as_json:
        click.echo(json.dumps({**about, "limit": LIMIT, "rows": [_plain(one, LIMIT) for one in found]}, indent=2))
        return
    out = console()
    out.width = max(out.width, _WIDTH)
    out.print(
        f"a decoding step of Llamas, float32, {about['machine']}, one thread, torch {about['torch']}, transformers "
        f"{about['transformers']}; CPU time, medians of {runs} interleaved runs",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("", "heads, dim", "keys", "attnspec", "sdpa", "is", "bar", ""):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    for one in found:
        row, held = one.row, "holds" if one.times <= LIMIT else "missed"
        table.add_row(
            *(row.title, f"{row.heads} / {row.kv_heads}, {row.dim}", f"{row.n:,}", seconds(one.attnspec.median)),
            *(seconds(one.sdpa.median), f"{one.times:.2f}x", f"<= {LIMIT:.1f}x", held),
        )
    out.print(table)


def _plain(one: Step, limit: float) -> dict[str, Any]:
    both = (("attnspec", one.attnspec), ("sdpa", one.sdpa))
    return {
        **asdict(one.row),
        "seconds": {name: {"median": timing.median, "all": list(timing.seconds)} for name, timing in both},
        "times": one.times,
        "holds": one.times <= limit,
    }
