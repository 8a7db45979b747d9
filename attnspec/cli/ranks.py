"""``attnspec run SPEC --ranks N``: a call over processes, checked against one device."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from attnspec.cli.console import console
from attnspec.spec.units import quantity, seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attnspec.runtime.attention import Attention
    from attnspec.runtime.bench.ranks.job import Job
    from attnspec.runtime.bench.setup import Setup


def run_ranks(attend: Attention, setup: Setup, ranks: int, shard: str, as_json: bool) -> NoReturn:
    """Run and print it; status 1 if results differ from those of one device, or messages from the plan."""
    from attnspec.cli.console import progress
    from attnspec.runtime.bench.ranks.job import job, job_of
    from attnspec.runtime.distributed.launch import on_ranks, speaks

    with progress(attend.spec.name) as tick:
        tick(f"{ranks} processes run forward and backward")
        found = job_of(on_ranks(ranks, job, attend.program, setup, shard), setup)
    right = found.agrees and found.as_planned
    if speaks():
        if as_json:
            click.echo(json.dumps(_plain(found), indent=2))
        else:
            _report(attend, setup, found)
    sys.exit(0 if right else 1)


def _report(attend: Attention, setup: Setup, found: Job) -> None:
    out, first, s = console(), found.ranks[0], setup.sizes
    out.print(
        f"{attend.spec.name} over {len(found.ranks)} ranks: processes on gloo, {os.cpu_count()} processors; "
        f"n = {s.n:,}, {s.heads} query and {s.kv_heads} key heads, batch {s.batch}, dim {setup.dim}, "
        f"{setup.dtype_name}\n",
        soft_wrap=True,
    )
    out.print(f"{first.plan}\n", soft_wrap=True)
    word = "agree with" if found.agrees else "DIFFER FROM"
    errors = ", ".join(f"{name} {error:.1e}" for name, error in first.errors.items())
    out.print(f"check  results and gradients {word} one device", style="bold")
    out.print(f"  largest errors, relative to the largest value: {errors} (tolerance {found.tolerance:.0e})")
    for number, what in enumerate(("forward", "backward")):
        sent = [one.sent[number] for one in found.ranks]
        planned = [one.planned[number] for one in found.ranks]
        same = "as planned, to the byte" if sent == planned else f"NOT AS PLANNED ({_each(planned)})"
        out.print(f"  sent {what:8} {quantity(sum(sent), 'B')}{same and ', '}{same}: {_each(sent)}", soft_wrap=True)
    out.print("time   medians of 3 rounds, that of the last rank; one device is one process alone, once", style="bold")
    for what, together, alone in (
        ("forward", max(one.forward for one in found.ranks), first.alone[0]),
        ("both", max(one.both for one in found.ranks), first.alone[1]),
    ):
        out.print(f"  {what:8} {seconds(together)}, {alone / together:.2f}x as fast as one device ({seconds(alone)})")
    right = found.agrees and found.as_planned
    but = "" if found.as_planned else ", and what was sent is not what was planned"
    out.print(f"\n{'right' if right else 'WRONG'}: results {word.lower()} one device{but}", style="bold")


def _each(numbers: Sequence[int]) -> str:
    return f"{numbers[0]:,} bytes each" if len(set(numbers)) == 1 else f"{', '.join(f'{n:,}' for n in numbers)} bytes"


def _plain(found: Job) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "agrees": found.agrees,
        "as_planned": found.as_planned,
        "tolerance": found.tolerance,
        "ranks": [asdict(one) for one in found.ranks],
    }
