"""``attnspec bench --startup`` and ``--memory``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from attnspec.cli.options import checked, read_params
from attnspec.spec.units import quantity, seconds


def show_startup(spec: str, params: tuple[str, ...], runs: int, as_json: bool) -> None:
    """Measure and print the time to the first output."""
    from attnspec.cli.console import progress
    from attnspec.runtime.bench.probe import startup

    with progress(spec) as tick:
        tick("starting fresh processes")
        found = startup(spec, read_params(params), runs)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
        return
    click.echo(f"{spec}: medians of {runs} fresh processes")
    click.echo(f"  spec to first output beyond import torch, nothing cached   {seconds(found.cold)}")
    click.echo(f"  the same with the kernel cached                            {seconds(found.cached)}")
    click.echo(f"  attnspec check, process start to end                       {seconds(found.check)}")
    click.echo(f"  tile plan, for every length                                {seconds(found.plan)}")
    counted = "too irregular" if found.count is None else seconds(found.count)
    click.echo(f"  exact pairs and tiles at {found.length:,} tokens           {counted}")
    memory, small = quantity(found.plan_memory, "B"), quantity(found.small_plan_memory, "B")
    click.echo(f"  peak memory of both                                        {memory} ({small} at 1,000 tokens)")


def show_peak(spec: str, params: tuple[str, ...], options: dict[str, Any], as_json: bool) -> None:
    """Measure and print the peak of memory."""
    from attnspec.cli.console import progress
    from attnspec.relation.lower import listed_heads
    from attnspec.runtime.bench.probe import peak

    pattern = checked(spec, params)
    n, heads, dim, dtype = (
        options["length"],
        options["heads"] or listed_heads(pattern) or 8,
        options["dim"],
        options["dtype"],
    )
    with progress(spec) as tick:
        tick("forward and backward in a fresh process")
        used, held = peak(spec, read_params(params), n, heads, dim, dtype)
    if as_json:
        click.echo(json.dumps({"peak_bytes": used, "tensor_bytes": held, "ratio": used / held}, indent=2))
        return
    click.echo(
        f"{pattern.name}, n = {n:,}, {heads} heads, dim {dim}, {dtype}, forward + backward: "
        f"peak {quantity(used, 'B')}, {used / held:.2f} x the {quantity(held, 'B')} of inputs, output and gradients"
    )
