"""``attnspec inspect``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

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
from attnspec.codegen.ranks.machines import DEFAULT, MACHINES, Machine

if TYPE_CHECKING:
    from attnspec.spec.spec import Spec

MOST_RANKS = 1 << 14


class _RanksType(click.ParamType):  # type: ignore[type-arg]
    """``64``, or several numbers of ranks: ``8,64,1024``."""

    name = "NUMBER[,NUMBER]..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        parts = [part.strip().replace("_", "") for part in str(value).split(",")]
        if not all(part.isdecimal() and 1 <= int(part) <= MOST_RANKS for part in parts):
            self.fail(f"{value!r} is not numbers of ranks from 1 to {MOST_RANKS}, as 64 or 8,64,1024", param, ctx)
        return tuple(dict.fromkeys(map(int, parts)))


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
@click.option(
    "--ranks",
    type=_RanksType(),
    help="One sequence over so many ranks: who computes what, what is sent, how long it takes. Several: a table.",
)
@click.option(
    "--machine",
    type=click.Choice(list(MACHINES)),
    help=f"Whose prices --ranks counts with.  [default: {DEFAULT}]",
)
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
    ranks: tuple[int, ...] | None,
    machine: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Show what a pattern looks like and what it costs, without running it.

    With --stack: the reach of `SPEC SPEC ... --stack`, layers that follow one another again and again, the first of
    them next to the input. Parameters apply to all of them; with 2:name=value to the second.

    With --ranks: the plan by which so many ranks share one sequence.
    """
    specs = (spec, *(word for word in params if "=" not in word))
    params = tuple(word for word in params if "=" in word)
    if stack:
        _stack(specs, params, as_json, options)
        return
    if len(specs) > 1:
        raise click.UsageError(f"parameters are given as name=value, not {specs[1]!r}; for layers of it, add --stack")
    if ranks is not None:
        _ranks(checked(spec, params), ranks, machine, as_json, options)
        return
    if machine is not None:
        raise click.UsageError("--machine is whose prices --ranks counts with: say --ranks too")
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


_OF_ONE_CALL = ("cells", "given", "tile", "layout", "gpu", "loops")


def _says_nothing(about: str, *names: str) -> None:
    """A usage error for options that are given and have nothing to say."""
    words = {"given": "input", "loops": "plan"}
    for name in names:
        if click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"--{words.get(name, name)} says nothing about {about}: leave it out")


def _prices(machine: str | None) -> Machine:
    """Those of a machine by name: of this one as they were measured, if they were."""
    from attnspec.runtime.bench.ranks.kept import NAME, remembered

    found = remembered() if machine == NAME else None
    return MACHINES[machine or DEFAULT] if found is None else found.machine


def _ranks(pattern: Spec, ranks: tuple[int, ...], machine: str | None, as_json: bool, options: dict[str, Any]) -> None:
    from attnspec.report.ranks import planned, text, to_dict

    _says_nothing("ranks", *_OF_ONE_CALL)
    sizes = call_sizes(pattern, options, whole=True)
    if max(ranks) > sizes.n:
        raise click.UsageError(f"{max(ranks):,} ranks for {sizes.n:,} positions: each is to have one at least")
    plans = planned(pattern, sizes, ranks, options["dim"], options["dtype"], _prices(machine))
    click.echo(json.dumps(to_dict(plans), indent=2) if as_json else text(plans))


def _stack(specs: tuple[str, ...], params: tuple[str, ...], as_json: bool, options: dict[str, Any]) -> None:
    from attnspec.report.stack import show, stack

    _says_nothing("a stack", "queries", "dim", "dtype", "ranks", "machine", *_OF_ONE_CALL)
    patterns = [checked(spec, params_of(i, params, len(specs))) for i, spec in enumerate(specs, 1)]
    found = stack([(pattern, call_sizes(pattern, options)) for pattern in patterns])
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        show(found, console())
