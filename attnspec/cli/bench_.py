"""``attnspec bench``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from attnspec.cli.common import call_sizes, console, json_option, plan_options, read_params, seconds, size_options

if TYPE_CHECKING:
    from rich.table import Table

    from attnspec.runtime.bench import Outcome, Setup

    Row = tuple[str, Setup | None, Outcome | str]

PEERS = ("SDPA causal", "SDPA mask", "FlexAttention")


@click.command()
@click.argument("spec", required=False)
@click.argument("params", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--suite", is_flag=True, help="All shipped specs, one table (no SPEC then).")
@click.option("--backward", is_flag=True, help="Time forward and backward together.")
@click.option("--no-flex", is_flag=True, help="Leave out FlexAttention, whose compilation takes long.")
@click.option("--runs", type=click.IntRange(3), default=9, show_default=True, help="Counted rounds.")
@click.option("--threads", type=click.IntRange(1), help="Threads for everyone.  [default: torch's]")
@click.option("--startup", is_flag=True, help="Measure instead: time to the first output, check, tile plan.")
@click.option("--memory", is_flag=True, help="Measure instead: peak memory of one forward and backward pass.")
@click.option(
    "--ceilings", is_flag=True, help="Measure this machine's matrix rate and bandwidth instead, for `inspect`."
)
@plan_options
@size_options(length=8192)
@json_option
def command(
    spec: str | None,
    params: tuple[str, ...],
    suite: bool,
    backward: bool,
    no_flex: bool,
    runs: int,
    threads: int | None,
    startup: bool,
    memory: bool,
    ceilings: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Time a pattern against SDPA and compiled FlexAttention on the same tensors.

    One process, one interleaved run after a warm-up, medians. Building masks and compiling is not counted for anyone.
    """
    import torch

    if threads:
        torch.set_num_threads(threads)
    if ceilings:
        _ceilings(as_json)
        return
    if startup or memory:
        if spec is None:
            raise click.UsageError("--startup and --memory need a SPEC")
        from attnspec.cli.probes import show_peak, show_startup

        if startup:
            show_startup(spec, params, runs, as_json)
        if memory:
            show_peak(spec, params, options, as_json)
        return
    if suite == bool(spec):
        raise click.UsageError("give a SPEC, or --suite")
    from attnspec.load import shipped

    rows: list[Row] = []
    names = shipped() if suite else (spec or "",)
    for number, name in enumerate(names, 1):
        if not suite:
            rows.append(_bench(name, params, backward, not no_flex, runs, options))
            break
        rows.append(_try(name, backward, not no_flex, runs, options))
        click.echo(f"[{number}/{len(names)}] {name}: {_said(rows[-1])}", err=True)
    if as_json:
        click.echo(json.dumps([_plain(*row) for row in rows], indent=2))
    else:
        _print(rows, torch.get_num_threads())


def _said(row: Row) -> str:
    _, _, found = row
    return found if isinstance(found, str) else seconds(found.timings["attnspec"].median)


def _try(name: str, backward: bool, flex: bool, runs: int, options: dict[str, Any]) -> Row:
    """A row of a suite: what went wrong where a spec cannot be timed, for one must not end the others."""
    try:
        return _bench(name, (), backward, flex, runs, options)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        return name, None, f"failed: {type(error).__name__}: {first}"


def _bench(spec: str, params: tuple[str, ...], backward: bool, flex: bool, runs: int, options: dict[str, Any]) -> Row:
    import torch

    from attnspec.cli.progress import progress
    from attnspec.runtime.attention import compile
    from attnspec.runtime.bench import Setup, bench
    from attnspec.runtime.measured import remember

    attend = compile(spec, params=read_params(params), tile=options["tile"], layout=options["layout"])
    sizes = call_sizes(attend.spec, options)
    setup = Setup(sizes, options["dim"], getattr(torch, options["dtype"]), backward, runs)
    with progress(attend.spec.name) as tick:
        found = bench(attend, setup, flex, tick)
    if options["tile"] is None and options["layout"] == "auto":
        remember(attend.spec, sizes, setup.dim, options["dtype"], found.timings["attnspec"].median, backward, runs)
    return attend.spec.name, setup, found


def _plain(name: str, setup: Setup | None, found: Outcome | str) -> dict[str, Any]:
    if setup is None or isinstance(found, str):
        return {"spec": name, "error": found}
    s = setup.sizes
    prepared = found.preparation
    return {
        "spec": name,
        "n": s.n,
        "n_q": s.n_q,
        "heads": s.heads,
        "kv_heads": s.kv_heads,
        "batch": s.batch,
        "dim": setup.dim,
        "dtype": str(setup.dtype).removeprefix("torch."),
        "backward": setup.backward,
        "runs": setup.runs,
        "seconds": {peer: {"median": t.median, "all": list(t.seconds)} for peer, t in found.timings.items()},
        "times_faster": {peer: found.ratio(peer) for peer in PEERS},
        "missing": found.missing,
        "preparation": prepared and {"median": prepared.median, "all": list(prepared.seconds), "share": found.share},
    }


def _print(rows: list[Row], threads: int) -> None:
    from rich.table import Table

    out = console()
    setup = next((setup for _, setup, _ in rows if setup is not None), None)
    if setup is not None:
        s = setup.sizes
        what = "forward + backward" if setup.backward else "forward"
        dtype = str(setup.dtype).removeprefix("torch.")
        out.print(
            f"{what}, {dtype}, n = {s.n:,}, {s.heads} heads, batch {s.batch}, dim {setup.dim}, {threads} threads; "
            f"medians of {setup.runs} interleaved runs"
            + ("; x: how many times as fast attnspec is" if len(rows) > 1 else "")
        )
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    if len(rows) > 1:
        _suite(table, rows)
    else:
        _single(table, *rows[0])
    out.print(table)
    for name, setup, found in rows:
        if setup is not None and not isinstance(found, str) and (said := prepared(setup, found)):
            out.print(f"{name}: {said}" if len(rows) > 1 else said)


def prepared(setup: Setup, found: Outcome) -> str:
    """What the inputs take of each call; nothing where there are none."""
    if found.preparation is None or found.share is None:
        return ""
    what = "forward + backward" if setup.backward else "forward"
    return f"preparation {seconds(found.preparation.median)} ({found.share:.2%} of the {what} time)"


def _single(table: Table, name: str, _: Setup | None, found: Outcome | str) -> None:
    """One spec: a line for each contender."""
    assert not isinstance(found, str)
    for title in (name, "median", "fastest", "slowest", "attnspec is"):
        table.add_column(title, justify="left" if title == name else "right")
    for contender in ("attnspec", *PEERS):
        timing, ratio = found.timings.get(contender), found.ratio(contender)
        if timing is None:
            table.add_row(contender, "-", "", "", found.missing.get(contender, ""))
        else:
            faster = "" if contender == "attnspec" else f"{ratio:.2f}x as fast"
            table.add_row(contender, seconds(timing.median), *map(seconds, timing.spread), faster)


def _suite(table: Table, rows: list[Row]) -> None:
    """Many specs: a line for each, with medians and how many times faster than each peer."""
    table.add_column("spec", no_wrap=True)
    table.add_column("attnspec", justify="right")
    for peer in PEERS:
        table.add_column(peer, justify="right")
        table.add_column("", justify="right")
    for name, _, found in rows:
        if isinstance(found, str):
            table.add_row(name, "-", found)
            continue
        cells = [name, seconds(found.timings["attnspec"].median)]
        for peer in PEERS:
            ratio = found.ratio(peer)
            known = (
                [seconds(found.timings[peer].median), f"{ratio:.2f}x"]
                if ratio is not None
                else ["-", found.missing[peer]]
            )
            cells += known
        table.add_row(*cells)


def _ceilings(as_json: bool) -> None:
    from dataclasses import asdict

    from attnspec.cli.common import quantity
    from attnspec.runtime.ceilings import ceilings

    found = ceilings()
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
        return
    click.echo(found.name)
    for dtype, rate in found.flops.items():
        click.echo(f"  {dtype:9} {quantity(rate)}FLOP/s")
    click.echo(f"  copy      {quantity(found.bandwidth)}B/s\n  {found.origin}")
