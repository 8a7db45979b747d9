"""``attnspec run``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnspec.cli.common import call_sizes, console, json_option, read_params, size_options, spec_argument

if TYPE_CHECKING:
    from attnspec.runtime.attention import Attention
    from attnspec.runtime.bench import Outcome, Setup
    from attnspec.runtime.verify import Verdict


@click.command()
@spec_argument
@click.option(
    "--text", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Train a small byte model on a file."
)
@click.option("--steps", type=click.IntRange(1), default=300, show_default=True, help="Training steps, with --text.")
@click.option("--no-flex", is_flag=True, help="Leave out FlexAttention, whose compilation takes long.")
@click.option("--runs", type=click.IntRange(3), default=3, show_default=True, help="Timed rounds.")
@size_options(length=16384)
@json_option
def command(
    spec: str,
    params: tuple[str, ...],
    text: Path | None,
    steps: int,
    no_flex: bool,
    runs: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Compile for this machine, run forward and backward, and compare with dense attention.

    Prints picture and cost, the largest errors, and the time beside SDPA's and FlexAttention's. Status 1 if the results
    do not agree. With --text, a small language model with this attention trains on the file's bytes instead.
    """
    from attnspec.runtime.attention import compile

    attend = compile(spec, params=read_params(params))
    if text is not None:
        from attnspec.cli.training import train_on

        train_on(attend, text, steps, click.get_current_context(), options)
        return
    import torch

    from attnspec.runtime.bench import Setup

    sizes = call_sizes(attend.spec, options)
    setup = Setup(sizes, options["dim"], getattr(torch, options["dtype"]), False, runs)
    if not as_json:
        _introduce(attend, setup)
    verdict = _verify(attend, setup)
    forward, both = _race(attend, setup, flex=not no_flex)
    if as_json:
        click.echo(json.dumps(_plain(setup, verdict, forward, both), indent=2))
    else:
        _report(setup, verdict, forward, both)
    sys.exit(0 if verdict.agrees else 1)


def _introduce(attend: Attention, setup: Setup) -> None:
    """Picture and cost."""
    from attnspec.cli.insight import insight
    from attnspec.cli.sections import clauses, figures, heading, pictures

    found = insight(attend.spec, setup.sizes, setup.dim, str(setup.dtype).removeprefix("torch."), 24)
    out = console()
    heading(found, out)
    pictures(found, out)
    if isinstance(found.cost, str):
        out.print(f"cost: {found.cost}\n")
    else:
        figures(found.cost, found, out)
        clauses(found.cost, found, out)


def _verify(attend: Attention, setup: Setup) -> Verdict:
    """Compare one key head of each class of heads with dense attention in float64."""
    import torch

    from attnspec.cli.progress import progress
    from attnspec.runtime.bench import inputs
    from attnspec.runtime.verify import verify

    s = setup.sizes
    q, k, v, dout = inputs(setup)
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    with progress(attend.spec.name) as tick:
        tick("compiling, running forward and backward")
        out = attend(*leaves)
        gradients = torch.autograd.grad(out, leaves, dout)
        share, relation = s.heads // s.kv_heads, attend.relation_for(heads=s.heads, kv_heads=s.kv_heads, batch=s.batch)
        groups = sorted(
            {next(h for h in range(s.heads) if relation.of_head(h) is c) // share for c in relation.classes}
        )
        done = 0

        def block() -> None:
            nonlocal done
            done += 1
            tick(f"dense attention in float64, block {done} of {len(groups) * share * -(-s.n_q // 1024)}")

        dq, dk, dv = gradients
        results = (out.detach(), dq, dk, dv)
        return verify(attend.spec, s, (q, k, v, dout), results, setup.dim**-0.5, tuple(groups), block)


def _race(attend: Attention, setup: Setup, flex: bool) -> tuple[Outcome, Outcome]:
    from dataclasses import replace

    from attnspec.cli.progress import progress
    from attnspec.runtime.bench import bench
    from attnspec.runtime.measured import remember

    found = []
    for backward in (False, True):
        with progress("timing forward" if not backward else "timing forward + backward") as tick:
            result = bench(attend, replace(setup, backward=backward), flex, tick)
        name = str(setup.dtype).removeprefix("torch.")
        remember(attend.spec, setup.sizes, setup.dim, name, result.timings["attnspec"].median, backward, setup.runs)
        found.append(result)
    return found[0], found[1]


def _report(setup: Setup, verdict: Verdict, forward: Outcome, both: Outcome) -> None:
    import torch
    from rich.table import Table

    from attnspec.cli.common import seconds
    from attnspec.cli.sections import ranges

    out = console()
    word = "agrees with" if verdict.agrees else "DIFFERS FROM"
    errors = ", ".join(f"{name} {error:.1e}" for name, error in verdict.errors.items())
    out.print(f"check  {word} dense attention in float64, heads {ranges(verdict.heads)}", style="bold")
    out.print(f"  largest errors, relative to the largest value: {errors} (tolerance {verdict.tolerance:.0e})\n")
    threads = torch.get_num_threads()
    out.print(f"time  medians of {setup.runs} interleaved runs, {threads} threads", style="bold")
    table = Table(box=None, show_header=True, pad_edge=False, padding=(0, 3, 0, 2))
    for title in ("", "forward", "", "forward + backward", ""):
        table.add_column(title, justify="right" if title else "left")
    for name in dict.fromkeys([*forward.timings, *both.timings, *forward.missing, *both.missing]):
        row = [name]
        for result in (forward, both):
            if name in result.timings:
                ratio = result.ratio(name)
                row.append(seconds(result.timings[name].median))
                row.append("" if name == "attnspec" or ratio is None else f"attnspec is {ratio:.2f}x as fast")
            else:
                row += ["-", result.missing.get(name, "")]
        table.add_row(*row)
    out.print(table)


def _plain(setup: Setup, verdict: Verdict, forward: Outcome, both: Outcome) -> dict[str, Any]:
    def timings(found: Outcome) -> dict[str, Any]:
        return {name: t.median for name, t in found.timings.items()} | {"missing": found.missing}

    return {
        "agrees": verdict.agrees,
        "errors": verdict.errors,
        "tolerance": verdict.tolerance,
        "heads_checked": list(verdict.heads),
        "runs": setup.runs,
        "forward_seconds": timings(forward),
        "forward_backward_seconds": timings(both),
    }
