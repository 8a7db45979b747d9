"""``attnspec bench SPEC --memory`` of a spec that says how segments follow one another: a step of training."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from attnspec.cli.options import read_params
from attnspec.spec.units import quantity, seconds

LENGTH = 1_000_000


def show_trained(spec: str, params: tuple[str, ...], options: dict[str, Any], as_json: bool) -> None:
    """Measure and print what one step of training takes."""
    from attnspec.cli.console import progress
    from attnspec.runtime.bench.recurrent import trained

    context = click.get_current_context()
    given = {name for name in options if context.get_parameter_source(name) != click.core.ParameterSource.DEFAULT}
    for name in sorted(given - {"length"}):
        raise click.UsageError(f"--{name.replace('_', '-')} has no meaning where a model of segments is trained")
    n = options["length"] if "length" in given else LENGTH
    with progress(spec) as tick:
        tick(f"one step on {n:,} bytes in a fresh process")
        found = trained(spec, read_params(params), n, tick)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
        return
    click.echo(
        f"{spec}: a model of bytes, 2 layers of width 64, one step of training on a sequence of {n:,} bytes: "
        f"{found.segments:,} segments, gradients through all of them"
    )
    hands = "" if found.kept_bytes is None else f", {quantity(found.kept_bytes, 'B')} of it what segments hand on"
    click.echo(f"  positions   {found.positions:,}, {found.positions / n:.3f} for each byte")
    click.echo(
        f"  memory      {quantity(found.used_bytes, 'B')} above the model of {quantity(found.model_bytes, 'B')} and "
        f"its optimizer{hands}"
    )
    click.echo(
        f"  time        {seconds(found.seconds)}, {seconds(found.seconds / found.segments)} for each segment ("
        f"{seconds(found.cpu / found.segments)} of the processor)"
    )
