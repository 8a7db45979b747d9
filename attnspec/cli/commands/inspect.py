"""``attnspec inspect``."""

from __future__ import annotations

import json
from typing import Any

import click
from click.core import ParameterSource

from attnspec.cli.console import console
from attnspec.cli.options import (
    call_sizes,
    checked,
    input_option,
    json_option,
    params_of,
    plan_options,
    read_inputs,
    read_params,
    size_options,
    spec_argument,
    tile_of,
)
from attnspec.codegen.cost.data_sheets import SHEETS


@click.command()
@spec_argument
@size_options(length=16384)
@click.option(
    "--cells", type=click.IntRange(4, 64), default=24, show_default=True, help="Cells in a row of the picture."
)
@plan_options
@input_option
@click.option("--plan", "loops", is_flag=True, help="The loops of the plan too.")
@click.option("--gpu", type=click.Choice(sorted(SHEETS)), help="What a GPU can do at most, by its data sheet.")
@click.option("--stack", is_flag=True, help="Several patterns, layer upon layer: how far information travels in them.")
@json_option
def command(
    spec: str,
    params: tuple[str, ...],
    cells: int,
    loops: bool,
    gpu: str | None,
    given: tuple[str, ...],
    stack: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Show what a pattern looks like and what it costs, without running it.

    With --stack: the reach of `SPEC SPEC ... --stack`, layers that follow one another again and again, the first of
    them next to the input. Parameters apply to all of them; with 2:name=value to the second.
    """
    specs = (spec, *(word for word in params if "=" not in word))
    params = tuple(word for word in params if "=" in word)
    if stack:
        _stack(specs, params, as_json, options)
        return
    if len(specs) > 1:
        raise click.UsageError(f"parameters are given as name=value, not {specs[1]!r}; for layers of it, add --stack")
    from attnspec.report.insight import insight
    from attnspec.report.text import show

    pattern = checked(spec, params)
    found = insight(
        pattern,
        call_sizes(pattern, options, whole=True),
        options["dim"],
        options["dtype"],
        cells,
        read_params(params),
        tile_of(options),
        options["layout"],
        read_inputs(given),
        SHEETS[gpu] if gpu else None,
        None if pattern.recurrence is None else options["length"],
    )
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        show(found, console(), loops)


def _stack(specs: tuple[str, ...], params: tuple[str, ...], as_json: bool, options: dict[str, Any]) -> None:
    from attnspec.report.stack import show, stack

    for name in ("cells", "given", "queries", "dim", "dtype", "tile", "layout", "gpu", "loops"):
        if click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name} says nothing about a stack: leave it out")
    patterns = [checked(spec, params_of(i, params, len(specs))) for i, spec in enumerate(specs, 1)]
    found = stack([(pattern, call_sizes(pattern, options)) for pattern in patterns])
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        show(found, console())
