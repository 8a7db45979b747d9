"""``attnspec bench``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from attnspec.cli.options import (
    call_sizes,
    checked,
    device_option_of,
    input_option,
    json_option,
    plan_options,
    read_inputs,
    read_params,
    require_pairs,
    size_options,
    text_of,
)
from attnspec.spec.units import seconds

if TYPE_CHECKING:
    import torch

    from attnspec.cli.bench.table import Row


@click.command()
@click.argument("spec", required=False)
@click.argument("params", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--suite", is_flag=True, help="All shipped specs, one table (no SPEC then); on cuda checked first.")
@click.option(
    "--budget",
    type=click.IntRange(1),
    default=480,
    show_default=True,
    help="Seconds for --suite on cuda; what no longer fits is listed as not run.",
)
@click.option("--backward", is_flag=True, help="Time forward and backward together.")
@click.option("--no-flex", is_flag=True, help="Leave out FlexAttention, whose compilation takes long.")
@click.option("--autotune", is_flag=True, help="Let FlexAttention try other schedules too, which takes minutes.")
@click.option("--runs", type=click.IntRange(3), default=9, show_default=True, help="Counted rounds.")
@click.option("--threads", type=click.IntRange(1), help="Threads for everyone.  [default: torch's]")
@click.option("--startup", is_flag=True, help="Measure instead: time to the first output, check, tile plan.")
@click.option(
    "--memory",
    is_flag=True,
    help="Measure instead: peak memory of one forward and backward pass; of a spec of segments, of a step of "
    "training a small model on -n bytes (a million).",
)
@click.option("--decode", is_flag=True, help="Measure instead: few queries against many keys, and parts.")
@click.option("--linear", is_flag=True, help="Measure instead: weights by features, beside what they are to take.")
@click.option("--flex", is_flag=True, help="Measure instead: block masks of files for FlexAttention, and imports.")
@click.option("--hf", is_flag=True, help="Measure instead: a decoding step of models of transformers, beside SDPA.")
@click.option(
    "--ranks",
    type=click.IntRange(2, 64),
    help="Measure instead: calls over so many processes, beside all-gather, ring and PyTorch's context_parallel.",
)
@click.option(
    "--ceilings", is_flag=True, help="Measure this device's matrix rate and bandwidth instead, for `inspect`."
)
@click.option("--forget", is_flag=True, help="With --ceilings: forget what was measured, and measure nothing.")
@plan_options
@input_option
@size_options(length=8192, device=True)
@json_option
def command(
    spec: str | None,
    params: tuple[str, ...],
    suite: bool,
    backward: bool,
    budget: int,
    no_flex: bool,
    autotune: bool,
    runs: int,
    threads: int | None,
    startup: bool,
    memory: bool,
    decode: bool,
    linear: bool,
    flex: bool,
    hf: bool,
    ranks: int | None,
    ceilings: bool,
    forget: bool,
    given: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Time a pattern against SDPA and compiled FlexAttention on the same tensors.

    One process, one interleaved run after a warm-up, medians. Building masks and compiling is not counted for anyone.

    With `--device cuda --suite`, every configuration of the kernels is checked against dense attention first, forward
    and gradients (status 1 if one is wrong); then the shipped specs and long calls are measured.
    """
    import torch

    device = device_option_of(options)

    if threads:
        torch.set_num_threads(threads)
    flags = {"--ceilings": ceilings, "--suite": suite, "--decode": decode, "--linear": linear}
    flags |= {"--flex": flex, "--hf": hf, "--ranks": ranks is not None}
    asked = [name for name, wanted in flags.items() if wanted]
    if len(asked) + bool(startup or memory) > 1:
        raise click.UsageError(
            "--suite, --decode, --linear, --flex, --hf, --ranks, --ceilings, and --startup or --memory are measured "
            "one at a time"
        )
    if asked and spec:
        own = decode or linear or flex or hf or ranks
        what = "all shipped specs" if suite else "calls of its own" if own else "the machine, not a pattern"
        raise click.UsageError(f"{asked[0]} measures {what}: leave out {spec}, or {asked[0]}")
    if given and (asked or startup or memory or not spec):
        raise click.UsageError("--input gives inputs of a SPEC that is timed")
    if forget and not (ceilings and device.type == "cpu"):
        raise click.UsageError("--forget goes with --ceilings, on the CPU")
    if forget:
        from attnspec.runtime.bench.ceilings import forget as forget_ceilings
        from attnspec.runtime.bench.ranks.kept import forget as forget_prices

        click.echo("forgotten" if any([forget_ceilings(), forget_prices()]) else "there were none")
        return
    if ceilings:
        _ceilings(as_json, device)
        return
    if decode:
        if device.type != "cpu" or backward:
            raise click.UsageError("--decode measures forward calls on the CPU")
        from attnspec.cli.bench.decode import show_decode
        from attnspec.runtime.bench.decode import ROWS
        from attnspec.runtime.bench.parts import CASES as IN_PARTS
        from attnspec.runtime.bench.steps import Steps

        show_decode(ROWS, IN_PARTS, Steps(), runs, as_json)
        return
    if linear:
        if device.type != "cpu" or backward:
            raise click.UsageError("--linear measures calls of its own on the CPU, with gradients too")
        from attnspec.cli.bench.linear import show_linear
        from attnspec.runtime.bench.linear import CASES

        show_linear(CASES, runs, as_json)
        return
    if flex:
        if device.type != "cpu" or backward:
            raise click.UsageError("--flex measures block masks on the CPU")
        from attnspec.cli.bench.flex import show_flex
        from attnspec.runtime.bench.flex import CASES as EXPORTED

        show_flex(EXPORTED, runs, as_json)
        return
    if hf:
        if device.type != "cpu" or backward or threads:
            raise click.UsageError("--hf measures forward calls on the CPU, with one thread")
        from attnspec.cli.bench.huggingface import show_huggingface

        show_huggingface(runs, as_json)
        return
    if ranks is not None:
        if device.type != "cpu" or backward or threads:
            raise click.UsageError("--ranks measures forward calls on the CPU, with one thread a rank")
        from attnspec.cli.bench.ranks import show_ranks
        from attnspec.runtime.bench.ranks.cases import CASES as OVER_RANKS

        show_ranks([case.cut(ranks) for case in OVER_RANKS], ranks, runs, as_json)
        return
    if startup or memory:
        if device.type != "cpu":
            raise click.UsageError("--startup and --memory measure calls on the CPU")
        if spec is None:
            raise click.UsageError("--startup and --memory need a SPEC")
        from attnspec.cli.bench.probes import show_peak, show_startup

        if startup:
            show_startup(spec, params, runs, as_json)
        if memory and checked(spec, params).recurrence is not None:
            from attnspec.cli.bench.recurrent import show_trained

            show_trained(spec, params, options, as_json)
        elif memory:
            show_peak(spec, params, options, as_json)
        return
    if not (suite or spec):
        raise click.UsageError("give a SPEC, or --suite")
    if suite and device.type != "cpu":
        from attnspec.cli.bench.suite import suite_on

        sys.exit(suite_on(device, options, budget, not no_flex, runs, as_json))
    from attnspec.cli.bench.table import plain, show
    from attnspec.runtime.bench.calls import with_kernels

    rows: list[Row] = []
    names = with_kernels() if suite else (spec or "",)
    for number, name in enumerate(names, 1):
        if not suite:
            rows.append(_bench(name, params, backward, not no_flex, runs, options, device, autotune, given))
            break
        rows.append(_try(name, backward, not no_flex, runs, options, device))
        click.echo(f"[{number}/{len(names)}] {name}: {_said(rows[-1])}", err=True)
    if as_json:
        click.echo(json.dumps([plain(*row) for row in rows], indent=2))
    else:
        show(rows, torch.get_num_threads())


def _said(row: Row) -> str:
    _, _, found = row
    return found if isinstance(found, str) else seconds(found.timings["attnspec"].median)


def _try(name: str, backward: bool, flex: bool, runs: int, options: dict[str, Any], device: torch.device) -> Row:
    """A row of a suite: what went wrong where a spec cannot be timed, for one must not end the others."""
    try:
        return _bench(name, (), backward, flex, runs, options, device, False, whole=True)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        return name, None, f"failed: {type(error).__name__}: {first}"


def _bench(
    spec: str,
    params: tuple[str, ...],
    backward: bool,
    flex: bool,
    runs: int,
    options: dict[str, Any],
    device: torch.device,
    autotune: bool,
    given: tuple[str, ...] = (),
    whole: bool = False,
) -> Row:
    import torch

    from attnspec.cli.console import progress
    from attnspec.runtime.attention import compile
    from attnspec.runtime.bench.race import bench
    from attnspec.runtime.bench.remembered import remember
    from attnspec.runtime.bench.setup import Setup
    from attnspec.runtime.prepare.given import tensors

    attend = compile(text_of(spec), params=read_params(params), tile=options["tile"], layout=options["layout"])
    sizes = call_sizes(attend.spec, options, whole)
    require_pairs(attend, sizes)
    own = tensors(attend.spec, sizes, read_inputs(given))
    setup = Setup(sizes, options["dim"], getattr(torch, options["dtype"]), backward, runs, device, own)
    with progress(attend.spec.name) as tick:
        found = bench(attend, setup, flex, tick, autotune)
    remember(attend, setup, found)
    return attend.spec.name, setup, found


def _ceilings(as_json: bool, device: torch.device) -> None:
    from dataclasses import asdict

    from attnspec.runtime.bench.ceilings import ceilings
    from attnspec.runtime.bench.gpu_ceilings import gpu_ceilings
    from attnspec.spec.units import quantity

    found = ceilings() if device.type == "cpu" else gpu_ceilings(device, again=True)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
        return
    click.echo(found.name)
    for dtype, rate in found.flops.items():
        click.echo(f"  {dtype:9} {quantity(rate, 'FLOP/s')}")
    click.echo(f"  copy      {quantity(found.bandwidth, 'B/s')}\n  {found.origin}")
