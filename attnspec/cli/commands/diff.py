"""``attnspec diff``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from attnspec.cli.options import checked, complete_spec, json_option, params_of

if TYPE_CHECKING:
    from attnspec.analysis.compare import Witness


@click.command()
@click.argument("first", shell_complete=complete_spec)
@click.argument("second", shell_complete=complete_spec)
@click.argument("params", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--heads", type=click.IntRange(1), help="Query heads, where a pattern depends on their number.")
@json_option
def command(first: str, second: str, params: tuple[str, ...], heads: int | None, as_json: bool) -> None:
    """Compare two patterns, exactly, for every length at once: which pairs there are, not how often they count.

    Parameters apply to both; with 1:name=value or 2:name=value to one of them. Status 0 if they are equal, 1 if not.
    """
    from attnspec.analysis.compare import compare
    from attnspec.relation.lower import listed_heads, lower

    patterns = [checked(spec, params_of(i, params, 2)) for i, spec in enumerate((first, second), 1)]
    count = heads or next((c for c in map(listed_heads, patterns) if c), None)
    try:
        result = compare(*(lower(p, count) for p in patterns))
    except ValueError as error:  # the patterns are defined for different numbers of heads
        raise click.UsageError(str(error)) from None
    if as_json:
        sides = {"first_only": result.first_only, "second_only": result.second_only}
        click.echo(json.dumps({"equal": result.equal, **{k: w and asdict(w) for k, w in sides.items()}}, indent=2))
    elif result.equal:
        click.echo("equal for every length")
    else:
        names = [f"{p.name} (the {which})" for p, which in zip(patterns, ("first", "second"), strict=True)]
        if result.second_only is None:
            click.echo(f"{names[0]} allows all that {names[1]} does, and more")
        elif result.first_only is None:
            click.echo(f"{names[1]} allows all that {names[0]} does, and more")
        else:
            click.echo("different: each allows pairs that the other does not")
        for name, witness in zip(names, (result.first_only, result.second_only), strict=True):
            if witness is not None:
                click.echo(f"only {name}: {_place(witness)}")
    sys.exit(0 if result.equal else 1)


def _place(w: Witness) -> str:
    inputs = "".join(f", {name} = {value}" for name, value in w.inputs)
    return (
        f"query row {w.row} sees key {w.k}, at n = {w.n}, n_q = {w.n_q}, head {w.h} of {w.heads}, "
        f"batch entry {w.b} of {w.batch}{inputs}"
    )
