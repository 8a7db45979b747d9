"""``attnspec bench --device cuda --suite``: correctness of every kernel configuration, measurements, one table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from attnspec.cli.bench.table import plain, useful, useful_share
from attnspec.cli.console import console
from attnspec.runtime.bench.calls import Row, long_rows, shipped_rows
from attnspec.runtime.bench.kernel_checks import checks
from attnspec.runtime.bench.peers import OWN
from attnspec.runtime.bench.suite import MEASURED, Budget, Report, run
from attnspec.runtime.bench.versions import versions
from attnspec.spec.units import quantity, seconds

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from attnspec.runtime.bench.race import Outcome
    from attnspec.runtime.bench.setup import Setup

WIDTH = 200


def suite_on(device: torch.device, options: dict[str, Any], budget: int, flex: bool, runs: int, as_json: bool) -> int:
    """Run everything and print it; the exit status: 1 if a kernel computes something wrong, or a row fails."""
    names = ("length", "heads", "kv_heads", "batch", "dim", "dtype")
    rows = [*long_rows(options["dtype"]), *shipped_rows(*(options[name] for name in names))]
    first, rest = checks(device.type)
    about = versions(device)
    limit = Budget.now(budget)
    report = run(limit, first, rest, rows, device, runs, flex, lambda text: click.echo(text, err=True))
    if as_json:
        click.echo(json.dumps(as_plain(report, about, limit.spent), indent=2))
    else:
        show(report, about, limit.spent)
    return 1 if report.wrong or report.failed else 0


def as_plain(report: Report, about: dict[str, str], spent: float) -> dict[str, Any]:
    """The report as plain data."""
    return {
        "about": about,
        "seconds": spent,
        "checks": {
            "made": len(report.checked),
            "right": sum(found.state == "right" for found in report.checked.values()),
            "wrong": {str(one): f"{found.state}: {found.message}" for one, found in report.wrong.items()},
            "do_not_fit": [str(one) for one, found in report.checked.items() if found.state == "does not fit"],
            "not_run": [str(one) for one in report.unchecked],
        },
        "rows": [
            {"name": row.name, "forward": plain(row.name, setup, forward), "both": _backward(row, setup, both)}
            for row, setup, forward, both in report.measured
        ],
        "failed": {_title(row): why for row, why in report.failed},
        "not_run": [_title(row) for row in report.unmeasured],
    }


def _backward(row: Row, setup: Setup, both: Outcome) -> dict[str, Any]:
    from dataclasses import replace

    return plain(row.name, replace(setup, backward=True), both)


def show(report: Report, about: dict[str, str], spent: float, out: Console | None = None) -> None:
    """Print what was checked, the table, and what was not run."""
    from rich.table import Table

    out = console() if out is None else out
    out.width = max(out.width, WIDTH)
    out.print(", ".join(f"{name} {value}" for name, value in about.items()), style="bold")
    _checks(report, out)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for title in ("n", "heads x dim", "forward", "FLOP/s", "/ predicted", "of causal", "SDPA", "Flex"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("fwd + bwd", "FLOP/s", "/ predicted", "of causal", "SDPA", "Flex"):
        table.add_column(title, justify="right", no_wrap=True)
    for item in report.measured:
        table.add_row(*_cells(item))
    if report.measured:
        out.print(
            "\nFLOP/s: on live pairs. / predicted: measured over predicted time (<: tiles that inputs may rule out are "
            "counted). of causal: live pairs per second, over those of our own causal (or dense) kernel.\n"
            "SDPA, Flex: how many times as fast as SDPA causal (or dense) by its fastest backend, and as compiled "
            "FlexAttention with its block mask.\n"
        )
        out.print(table)
    for row, why in report.failed:
        out.print(f"failed   {_title(row)}: {why}")
    if report.unmeasured:
        out.print(
            f"not run  {len(report.unmeasured)} rows, for want of time: {'; '.join(map(_title, report.unmeasured))}"
        )
    out.print(f"{spent:.0f} s in all")


def _checks(report: Report, out: Console) -> None:
    right = sum(found.state == "right" for found in report.checked.values())
    unfit = [one for one, found in report.checked.items() if found.state == "does not fit"]
    out.print(
        f"checks   {right} of {len(report.checked)} agree with dense attention in float64, forward and gradients; "
        f"the {report.first} of all schedules and all mechanisms come first"
    )
    for one, found in report.wrong.items():
        out.print(f"{found.state:8} {one}: {found.message}", style="bold")
    if unfit:
        out.print(f"too big  {len(unfit)} configurations need more than the device has: {'; '.join(map(str, unfit))}")
    if report.unchecked:
        cases = sorted({one.case.name for one in report.unchecked})
        out.print(f"not run  {len(report.unchecked)} more checks, for want of time, of: {'; '.join(cases)}")


def _title(row: Row) -> str:
    return f"{row.name} n={row.m:,} dim={row.dim}"


def _cells(item: MEASURED) -> list[str]:
    row, setup, forward, both = item
    from dataclasses import replace

    found = [row.name, f"{row.m:,}", f"{setup.sizes.heads} x {row.dim}"]
    for one, outcome in ((setup, forward), (replace(setup, backward=True), both)):
        mine = outcome.timings["attnspec"].median
        expected = None if outcome.predicted is None else outcome.predicted.seconds(one.backward)
        share, rate = useful_share(one, outcome), useful(one, outcome)
        bounded = "<" if outcome.predicted is not None and outcome.predicted.bounded else ""
        found += [
            seconds(mine),
            "-" if rate is None else quantity(rate),
            "-" if not expected else f"{bounded}{mine / expected:.2f}",
            "-" if share is None else f"{share:.0%}",
            _ratio(outcome, "SDPA causal"),
            _ratio(outcome, "FlexAttention"),
        ]
    return found


def _ratio(outcome: Outcome, peer: str) -> str:
    ratio = outcome.ratio(peer)
    if ratio is None:
        return "-"
    note = outcome.notes.get(peer, "") if peer != OWN else ""
    return f"{ratio:.2f}{f' {note}' if note else ''}"
