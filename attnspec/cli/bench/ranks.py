"""What ``attnspec bench --ranks`` prints: calls over many ranks beside what others do, and this machine's prices."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from attnspec.cli.console import console
from attnspec.spec.units import quantity, seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from attnspec.runtime.bench.ranks.cases import Case
    from attnspec.runtime.bench.ranks.kept import Prices
    from attnspec.runtime.bench.ranks.measure import Compared


def show_ranks(cases: Sequence[Case], ranks: int, runs: int, as_json: bool) -> None:
    """Measure and print cases and prices; status 1 where an output differs from that of one device."""
    from attnspec.cli.console import progress
    from attnspec.runtime.bench.ranks.measure import TOLERANCE, measure_ranks
    from attnspec.runtime.bench.ranks.prices import prices

    out, found = console(), []
    with progress(f"{ranks} ranks") as tick:
        tick("the prices of messages and calls")
        costs = prices(ranks)
        if not as_json:
            _introduce(out, cases, ranks, runs)
        for one in measure_ranks(cases, ranks, runs, tick):
            found.append(one)
            if not as_json:
                _print(out, one)
    if as_json:
        click.echo(json.dumps({"cases": [_plain(one) for one in found], "prices": _plain_prices(costs)}, indent=2))
    else:
        _print_prices(out, costs)
    wrong = any(ran.error > TOLERANCE for one in found for ran in one.ran.values())
    sys.exit(1 if wrong else 0)


def _introduce(out: Console, cases: Sequence[Case], ranks: int, runs: int) -> None:
    shapes = {f"{one.heads} query and {one.kv_heads} key heads, dim {one.dim}" for one in cases}
    out.print(
        f"calls over {ranks} ranks: processes on gloo with one thread each, {os.cpu_count()} processors; forward, "
        f"float32, {', '.join(shapes)}; medians of {runs} interleaved rounds that end with the last rank; sent by all "
        "ranks; memory is the largest peak of a rank above its start, in processes of its own; CPU of the rank that "
        "takes most; others compute with our kernels, context_parallel with PyTorch's",
        soft_wrap=True,
    )


def _print(out: Console, one: Compared) -> None:
    """A line for each contender, and one for each bar."""
    from rich.table import Table

    from attnspec.runtime.bench.ranks.bars import bars
    from attnspec.runtime.bench.ranks.contenders import OURS

    out.print(f"\n{one.case}, n = {one.case.n:,}", style="bold", soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("", "time", "attnspec is", "sent", "memory", "CPU"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for name, ran in one.ran.items():
        faster = "" if name == OURS else f"{one.times(name):.2f}x as fast"
        memory, cpu = quantity(max(ran.peak), "B"), seconds(max(ran.cpu))
        table.add_row(name, seconds(ran.seconds), faster, quantity(ran.total, "B"), memory, cpu)
    out.print(table)
    if one.why_not:
        out.print(
            f"  context_parallel itself cannot run here ({one.why_not}): its schedule is called directly, with "
            "PyTorch's kernel for the CPU",
            soft_wrap=True,
        )
    received, peak = max(one.planned.received), max(one.ran[OURS].peak)
    out.print(
        f"  memory: peak {quantity(peak, 'B')}; a rank's own tensors are {quantity(one.local, 'B')}, and it receives "
        f"{quantity(received, 'B')} at most",
        soft_wrap=True,
    )
    if one.half is not None:
        out.print(
            f"  in bfloat16: peak {quantity(max(one.half.peak), 'B')}, {one.half.memory:.2f} of what a rank holds and "
            f"receives ({quantity(max(one.half.needed), 'B')} at most): sums that steps add to are float32",
            soft_wrap=True,
        )
    for bar in bars(one):
        sign = ">=" if bar.at_least else "<="
        held = "holds" if bar.holds else "MISSED"
        out.print(f"  {held:6}  {bar.what}: {bar.found:.4g} ({sign} {bar.limit:.4g})", soft_wrap=True)


def _print_prices(out: Console, costs: Prices) -> None:
    machine = costs.machine
    out.print(f"\nprices of this machine, kept for plans as `{machine.name}`: {machine.origin}", soft_wrap=True)
    for size, spent in costs.messages.items():
        out.print(f"  message of {quantity(size, 'B'):>9}  {seconds(spent):>8}  {quantity(size / spent, 'B/s')}")
    out.print(
        f"  a step {seconds(machine.step)}, a message {seconds(machine.message)}, a kernel call "
        f"{seconds(machine.call)}; {quantity(machine.flops['float32'], 'FLOP/s')} on live pairs of a rank"
    )


def _plain(one: Compared) -> dict[str, Any]:
    """A case as plain data."""
    from attnspec.runtime.bench.ranks.bars import bars

    return {
        **asdict(one.case),
        "case": str(one.case),
        "ranks": one.ranks,
        "contenders": {name: asdict(ran) for name, ran in one.ran.items()},
        "planned": asdict(one.planned),
        "context_parallel": one.why_not,
        "bfloat16": None if one.half is None else one.half._asdict(),
        "bars": [bar._asdict() for bar in bars(one)],
    }


def _plain_prices(costs: Prices) -> dict[str, Any]:
    machine = costs.machine
    return {**asdict(machine), "flops": dict(machine.flops), "messages": list(costs.messages.items())}
