"""``attnspec run``."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnspec.cli.console import console
from attnspec.cli.options import (
    call_sizes,
    device_option_of,
    input_option,
    json_option,
    plan_options,
    read_inputs,
    read_params,
    require_pairs,
    size_options,
    spec_argument,
    text_of,
    tile_of,
)
from attnspec.codegen.ranks.shards import KINDS

if TYPE_CHECKING:
    import torch

    from attnspec.runtime.attention import Attention
    from attnspec.runtime.bench.race import Outcome
    from attnspec.runtime.bench.setup import Setup
    from attnspec.runtime.bench.verify import Verdict


@click.command()
@functools.partial(spec_argument, required=False)
@click.option(
    "--hf",
    type=click.Choice(["tiny", "small"], case_sensitive=False),
    help="Train and run a Llama of this size, of Hugging Face's transformers, with random weights.",
)
@click.option(
    "--text",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Train a small byte model on a file, or the Llama of --hf.",
)
@click.option(
    "--steps", type=click.IntRange(1), default=300, show_default=True, help="Training steps, with --text or --hf."
)
@click.option("--no-flex", is_flag=True, help="Leave out FlexAttention, whose compilation takes long.")
@click.option("--runs", type=click.IntRange(1), default=9, show_default=True, help="Timed rounds, at most.")
@click.option("--budget", type=click.IntRange(1), default=60, show_default=True, help="Seconds for timed rounds.")
@click.option(
    "--ranks", type=click.IntRange(1, 64), help="Over so many processes of this machine; or those of torchrun."
)
@click.option(
    "--shard",
    type=click.Choice(["auto", *KINDS]),
    default="auto",
    show_default=True,
    help="With --ranks: how positions are dealt out.",
)
@plan_options
@input_option
@size_options(length=16384, device=True)
@json_option
def command(
    spec: str | None,
    params: tuple[str, ...],
    given: tuple[str, ...],
    hf: str | None,
    text: Path | None,
    steps: int,
    no_flex: bool,
    runs: int,
    budget: int,
    ranks: int | None,
    shard: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Compile for this machine, run forward and backward, and compare with dense attention.

    Prints picture and cost, the largest errors, the time beside SDPA's and FlexAttention's, and in one line what comes
    of it. Of long calls some hundred rows are compared, and the gradients of what these rows give. Status 1 if the
    results do not agree. With --text, a small language model with this attention trains on the file's bytes instead.

    With --hf, a small Llama of transformers has this attention (sinks start=4 recent=124 if no SPEC is given), trains
    on the bytes of --text, or of the reference, and writes with a cache that keeps what the pattern can still see.

    With --ranks, the sequence is dealt out to processes; results and gradients are compared with those of one device,
    and bytes with the plan. Inside torchrun (`torchrun --nnodes 2 .. -m attnspec run ..`) its processes are the ranks.
    """
    from attnspec.runtime.attention import compile

    device = device_option_of(options)
    if ranks is None and shard != "auto":
        raise click.UsageError("--shard deals positions out to --ranks")
    if ranks is not None and (device.type != "cpu" or options["tile"] or options["layout"] != "auto"):
        raise click.UsageError("--ranks are processes on the CPU, with the compiler's own --tile and --layout")
    chosen = click.get_current_context().get_parameter_source
    if hf is not None:
        _run_huggingface(hf, spec, params, given, text, steps, ranks, as_json, options, device)
        return
    if spec is None:
        raise click.UsageError("Missing argument 'SPEC'.")
    attend = compile(text_of(spec), params=read_params(params), tile=options["tile"], layout=options["layout"])
    if text is None and chosen("steps") is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError("--steps counts steps of training, which --text FILE asks for")
    if text is not None and given:
        raise click.UsageError(
            "--input has no meaning with --text: a model learns its float inputs, others are examples"
        )
    if text is not None:
        from attnspec.cli.training import train_on

        train_on(attend, text, steps, click.get_current_context(), options, device, ranks, shard)
        return
    import torch

    from attnspec.runtime.bench.setup import Setup
    from attnspec.runtime.prepare.given import tensors

    sizes = call_sizes(attend.spec, options)
    require_pairs(attend, sizes)
    values = read_inputs(given)
    own = tensors(attend.spec, sizes, values)
    setup = Setup(sizes, options["dim"], getattr(torch, options["dtype"]), False, runs, device, own)
    if ranks is not None:
        from attnspec.cli.ranks import run_ranks

        run_ranks(attend, setup, ranks, shard, as_json)
    if not as_json:
        _introduce(attend, setup, options, values)
    verdict = _verify(attend, setup)
    forward, both = _race(attend, setup, not no_flex, budget)
    if as_json:
        click.echo(json.dumps(_plain(setup, verdict, forward, both), indent=2))
    else:
        _report(setup, verdict, forward, both)
    sys.exit(0 if verdict.agrees else 1)


def _run_huggingface(
    size: str,
    spec: str | None,
    params: tuple[str, ...],
    given: tuple[str, ...],
    text: Path | None,
    steps: int,
    ranks: int | None,
    as_json: bool,
    options: dict[str, Any],
    device: torch.device,
) -> None:
    from attnspec.cli.huggingface import DEFAULT, LENGTH, run_huggingface
    from attnspec.runtime.attention import compile

    chosen = click.get_current_context().get_parameter_source
    if ranks is not None or given:
        raise click.UsageError(f"{'--ranks' if ranks is not None else '--input'} has no meaning with --hf")
    for name in ("queries", "kv_heads", "batch", "dim", "dtype", "runs", "no_flex", "budget"):
        if chosen(name) is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name.replace('_', '-')} has no meaning with --hf")
    if spec is not None and "=" in spec and "{" not in spec:
        params, spec = (spec, *params), None
    values = {**(DEFAULT[1] if spec is None else {}), **read_params(params)}
    attend = compile(text_of(spec or DEFAULT[0]), params=values, tile=options["tile"], layout=options["layout"])
    length = LENGTH if chosen("length") is click.core.ParameterSource.DEFAULT else options["length"]
    run_huggingface(attend, size.lower(), text, steps, length, options["heads"], device, as_json)


def _introduce(attend: Attention, setup: Setup, options: dict[str, Any], values: dict[str, Any]) -> None:
    """Picture and cost."""
    from attnspec.report.insight import insight
    from attnspec.report.text import summary

    tile, layout = tile_of(options), options["layout"]
    asked = {"tile": tile, "layout": layout, "inputs": values}
    found = insight(attend.spec, setup.sizes, setup.dim, setup.dtype_name, 24, **asked)
    summary(found, console())


def _verify(attend: Attention, setup: Setup) -> Verdict:
    """Compare with dense attention in float64: one key head of each class of heads, and the last where heads differ."""
    import torch

    from attnspec.cli.console import progress
    from attnspec.runtime.bench.setup import examples, inputs
    from attnspec.runtime.bench.verify import block_rows, heads_of, results_of, sampled, verify
    from attnspec.spec.contents import free

    s = setup.sizes
    share, relation = s.heads // s.kv_heads, attend.relation_for(heads=s.heads, kv_heads=s.kv_heads, batch=s.batch)
    groups = tuple(
        sorted(
            {next(h for h in range(s.heads) if relation.of_head(h) is c) // share for c in relation.classes}
            | ({s.kv_heads - 1} if any("h" in free(root) for root in attend.spec.roots) else set())
        )
    )
    q, k, v, dout = inputs(setup)
    checked = heads_of(s, groups)
    mine = torch.zeros(s.batch, s.heads, 1, 1, dtype=dout.dtype, device=dout.device)
    mine[0, list(checked)] = 1
    looked, rows = torch.zeros(s.n_q, 1, dtype=dout.dtype, device=dout.device), sampled(s.n_q)
    for block in rows:
        looked[block] = 1
    dout = dout * mine * looked  # gradients are sums over heads, batch entries and rows: over those that are looked at
    given = examples(attend.spec, setup)
    with progress(attend.spec.name) as tick:
        tick("compiling, running forward and backward")
        results = results_of(attend, (q, k, v, dout), given)
        done, step = 0, block_rows(attend.spec, s)
        total = len(checked) * sum(-(-(block.stop - block.start) // step) for block in rows)

        def after() -> None:
            nonlocal done
            done += 1
            tick(f"dense attention in float64, block {done} of {total}")

        return verify(attend.spec, s, (q, k, v, dout), results, given, groups, tick=after, blocks=rows)


def _race(attend: Attention, setup: Setup, flex: bool, budget: float) -> tuple[Outcome, Outcome]:
    from dataclasses import replace

    from attnspec.cli.console import progress
    from attnspec.runtime.bench.race import bench
    from attnspec.runtime.bench.remembered import remember

    found = []
    for backward in (False, True):
        with progress("timing forward" if not backward else "timing forward + backward") as tick:
            timed = replace(setup, backward=backward)
            result = bench(attend, timed, flex, tick, budget=budget * (2 if backward else 1) / 3)
        remember(attend, timed, result)
        found.append(result)
    return found[0], found[1]


def _report(setup: Setup, verdict: Verdict, forward: Outcome, both: Outcome) -> None:
    import torch
    from rich.table import Table

    from attnspec.cli.bench.table import prepared, remarks
    from attnspec.runtime.bench.verify import sampled
    from attnspec.runtime.core.device import name_of
    from attnspec.spec.units import plural, ranges, seconds

    out = console()
    word, s = "agrees with" if verdict.agrees else "DIFFERS FROM", setup.sizes
    errors = ", ".join(f"{name} {error:.1e}" for name, error in verdict.errors.items())
    rows = sum(block.stop - block.start for block in sampled(s.n_q))
    which = "all rows" if rows == s.n_q else f"{rows:,} of {s.n_q:,} rows"
    out.print(
        f"check  {word} dense attention in float64, heads {ranges(verdict.heads)}, {which}",
        style="bold",
        soft_wrap=True,
    )
    out.print(
        f"  largest errors, relative to the largest value: {errors} (tolerance {verdict.tolerance:.0e})\n",
        soft_wrap=True,
    )
    where = plural(torch.get_num_threads(), "thread") if setup.device.type == "cpu" else name_of(setup.device)
    most = max(len(t.seconds) for found in (forward, both) for t in found.timings.values())
    out.print(f"time  medians of up to {plural(most, 'interleaved run')}, {where}", style="bold")
    table = Table(box=None, show_header=True, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("", "forward", "attnspec is", "forward + backward", "attnspec is"):
        table.add_column(title, justify="right" if "forward" in title else "left", overflow="fold")
    for name in dict.fromkeys([*forward.timings, *both.timings, *forward.missing, *both.missing]):
        row = [name]
        for result in (forward, both):
            if name in result.timings:
                ratio, runs = result.ratio(name), len(result.timings[name].seconds)
                row.append(seconds(result.timings[name].median) + (" (1 run)" if runs == 1 else ""))
                row.append("" if name == "attnspec" or ratio is None else f"{ratio:.2f}x as fast")
            else:
                row += ["-", result.missing.get(name, "")]
        table.add_row(*row)
    out.print(table)
    for said in filter(None, (prepared(setup, forward), *(f"forward: {one}" for one in remarks(setup, forward)))):
        out.print(f"  {said}")
    ratios = [f"{forward.ratio(name):.1f}x {name}" for name in forward.timings if name != "attnspec"]
    speed = f"; forward {', '.join(ratios)}" if ratios else ""
    out.print(
        f"\n{'right' if verdict.agrees else 'WRONG'}: {word.lower()} dense attention{speed}",
        style="bold",
        soft_wrap=True,
    )


def _plain(setup: Setup, verdict: Verdict, forward: Outcome, both: Outcome) -> dict[str, Any]:
    from attnspec.runtime.bench.verify import sampled

    def timings(found: Outcome) -> dict[str, Any]:
        return {name: t.median for name, t in found.timings.items()} | {"missing": found.missing}

    return {
        "agrees": verdict.agrees,
        "errors": verdict.errors,
        "tolerance": verdict.tolerance,
        "heads_checked": list(verdict.heads),
        "rows_checked": sum(block.stop - block.start for block in sampled(setup.sizes.n_q)),
        "runs": {name: len(t.seconds) for name, t in forward.timings.items()},
        "preparation_seconds": forward.preparation and forward.preparation.median,
        "forward_seconds": timings(forward),
        "forward_backward_seconds": timings(both),
    }
