"""``attnspec run SPEC --text FILE``: a small language model learns real bytes with this attention."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnspec.cli.console import console

if TYPE_CHECKING:
    import torch

    from attnspec.runtime.attention import Attention

LENGTH = 1024
HEADS = 4


def train_on(
    attend: Attention,
    path: Path,
    steps: int,
    context: click.Context,
    options: dict[str, Any],
    device: torch.device,
) -> None:
    """Train with a progress bar and print how the loss fell."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from attnspec.runtime.modules.byte_model import train

    given = {name: context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT for name in options}
    for name in ("queries", "kv_heads", "batch", "dim", "dtype"):
        if given[name]:
            raise click.UsageError(f"--{name.replace('_', '-')} has no meaning with --text")
    if attend.spec.axes or attend.spec.order is not None:
        what = "axes" if attend.spec.axes else "a computed order, which may look ahead"
        raise click.UsageError(f"--text trains on one sequence from left to right: {attend.spec.name} has {what}")
    length = options["length"] if given["length"] else LENGTH
    heads = options["heads"] or _heads(attend)
    if 128 % heads:
        raise click.UsageError(f"the model's width, 128, cannot be divided among {heads} heads")
    out = console()
    restricted = restrict(attend, heads)
    if restricted is not attend:
        out.print(f"{attend.spec.name} looks ahead; to predict the next byte it is restricted to k <= q")
    data = path.read_bytes()
    if len(data) < length + 1:
        raise click.UsageError(f"{path} has {len(data):,} bytes; at least {length + 1:,} are needed (or a smaller -n)")
    out.print(
        f"a byte-level language model, 2 layers of width 128 with {heads} heads, trains on {path.name} "
        f"({len(data):,} bytes), {steps} steps of {length:,} bytes"
    )
    bits: list[float] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
    )
    err = console(stderr=True)
    every = max(1, steps // 10)
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("training", total=steps)
        for step in train(data, restricted, length, steps, heads, device=device):
            bits.append(step.bits)
            bar.update(task, advance=1, description=f"{step.bits:.3f} bits per byte")
            if step.number % every == 0 or step.number == 1:
                recent = bits[-every:]
                out.print(
                    f"  step {step.number:5}  {sum(recent) / len(recent):.3f} bits per byte  {step.seconds:.1f} s"
                )
    tenth = max(1, steps // 10)
    first, last = sum(bits[:tenth]) / tenth, sum(bits[-tenth:]) / tenth
    out.print(f"loss: {first:.3f} bits per byte over the first {tenth} steps, {last:.3f} over the last {tenth}")


def _heads(attend: Attention) -> int:
    from attnspec.relation.lower import listed_heads

    return listed_heads(attend.spec) or HEADS


def restrict(attend: Attention, heads: int) -> Attention:
    """The same pattern without the keys after the query: itself if it has none."""
    from attnspec.relation.presburger import Pairs
    from attnspec.runtime.attention import compile

    relation = attend.relation_for(heads=heads)
    causal = Pairs.read("y <= x")
    if all(item.pairs.within(causal) for item in relation.classes):
        return attend
    text = str(attend.spec)
    program = attend.program
    return compile(f"{text[:-1]}    within k <= q\n}}", tile=program.tile, layout=program.layout)
