"""``attnspec inspect``."""

from __future__ import annotations

import json
from typing import Any

import click

from attnspec.cli.console import console
from attnspec.cli.options import (
    call_sizes,
    checked,
    json_option,
    plan_options,
    read_params,
    size_options,
    spec_argument,
    tile_of,
)


@click.command()
@spec_argument
@size_options(length=16384)
@click.option(
    "--cells", type=click.IntRange(4, 64), default=24, show_default=True, help="Cells in a row of the picture."
)
@plan_options
@json_option
def command(spec: str, params: tuple[str, ...], cells: int, as_json: bool, **options: Any) -> None:
    """Show what a pattern looks like and what it costs, without running it."""
    from attnspec.report.insight import insight
    from attnspec.report.text import show

    pattern = checked(spec, params)
    found = insight(
        pattern,
        call_sizes(pattern, options),
        options["dim"],
        options["dtype"],
        cells,
        read_params(params),
        tile_of(options),
        options["layout"],
    )
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        show(found, console())
