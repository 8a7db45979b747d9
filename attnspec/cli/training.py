"""``attnspec run SPEC --text FILE``: a small language model learns real bytes with this attention."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnspec.cli.console import console

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from rich.console import Console

    from attnspec.runtime.attention import Attention
    from attnspec.runtime.core.program import Program
    from attnspec.runtime.modules.byte_model import Step
    from attnspec.spec.spec import Spec

LENGTH = 1024
SEGMENTS = 4
"""How many segments a step has, unless it is said otherwise."""
HEADS = 4


def train_on(
    attend: Attention,
    path: Path,
    steps: int,
    context: click.Context,
    options: dict[str, Any],
    device: torch.device,
    ranks: int | None = None,
    shard: str = "auto",
) -> None:
    """Train, over ``ranks`` if there are some, with a progress bar, and print how the loss fell."""
    given = {name: context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT for name in options}
    for name in ("queries", "kv_heads", "batch", "dim", "dtype"):
        if given[name]:
            raise click.UsageError(f"--{name.replace('_', '-')} has no meaning with --text")
    spec = attend.spec
    if spec.recurrence is None and (spec.axes or spec.order is not None):
        what = "axes" if spec.axes else "a computed order, which may look ahead"
        raise click.UsageError(f"--text trains on one sequence from left to right: {spec.name} has {what}")
    heads = options["heads"] or _heads(attend)
    if 128 % heads:
        raise click.UsageError(f"the model's width, 128, cannot be divided among {heads} heads")
    default = LENGTH if spec.recurrence is None else SEGMENTS * spec.recurrence.recur.size
    length = options["length"] if given["length"] else default
    if spec.recurrence is not None and length < 2:
        raise click.UsageError("the first byte of a step is not predicted: -n must be at least 2 with --text")
    data = path.read_bytes()
    if len(data) < length + 1:
        raise click.UsageError(f"{path} has {len(data):,} bytes; at least {length + 1:,} are needed (or a smaller -n)")
    if ranks is not None:
        if spec.recurrence is not None:
            raise click.UsageError(f"{spec.name} trains segment by segment, and --ranks share a sequence that is whole")
        _over_ranks(data, path.name, attend, length, steps, heads, ranks, shard)
        return
    out = console()
    train = _over_segments if spec.recurrence is not None else _at_once
    taken, how = train(data, attend, length, steps, heads, device)
    out.print(
        f"a byte-level language model, 2 layers of width 128 with {heads} heads, trains on {path.name} "
        f"({len(data):,} bytes), {steps} steps of {length:,} bytes{how}"
    )
    show(taken, steps, out)


Train = tuple["Iterator[Step]", str]
"""Steps of training, and how they are taken, in words."""


def _at_once(data: bytes, attend: Attention, length: int, steps: int, heads: int, device: torch.device) -> Train:
    """On whole sequences."""
    from attnspec.runtime.modules.byte_model import train

    restricted = restrict(attend, heads)
    if restricted is not attend:
        console().print(f"{attend.spec.name} looks ahead; to predict the next byte it is restricted to k <= q")
    return train(data, restricted, length, steps, heads, device=device), ""


_COMPARED = 5
"""Steps that one device takes too: after many more the last digits of sums tell."""
_NEAR = 2e-3
"""Bits per byte by which losses may differ."""


def _over_ranks(
    data: bytes, name: str, attend: Attention, length: int, steps: int, heads: int, ranks: int, shard: str
) -> None:
    """With the sequence dealt out to ranks; status 1 if the loss of the first steps is not that of one device."""
    from attnspec.runtime.distributed.launch import on_ranks, speaks

    restricted = restrict(attend, heads)
    if speaks():
        what = f"a byte-level language model, 2 layers of width 128 with {heads} heads, trains on {name}"
        console().print(f"{what} ({len(data):,} bytes), {steps} steps of {length:,} bytes over {ranks} ranks")
    found = on_ranks(ranks, _rank, data, restricted.program, length, steps, heads, shard)
    near = found[0]
    if speaks():
        word = "is that" if near <= _NEAR else "IS NOT that"
        steps = min(steps, _COMPARED)
        console().print(f"check: the loss {word} of one device over {steps} steps, to {near:.1e} bits per byte")
    sys.exit(0 if near <= _NEAR else 1)


def _rank(data: bytes, program: Program, length: int, steps: int, heads: int, shard: str) -> float:
    """On each rank: train, print on rank 0, and say by how much the first losses differ from those of one device."""
    from attnspec.runtime.attention import Attention
    from attnspec.runtime.distributed.distribute import distribute
    from attnspec.runtime.modules.byte_model import train
    from attnspec.runtime.modules.byte_model_ranks import train_over_ranks

    attend = Attention(program, "auto")
    far = distribute(attend, n=length, heads=heads, dim=128 // heads, shard=shard)
    taken = list[float]()

    def seen() -> Iterator[Step]:
        for step in train_over_ranks(data, far, length, steps, heads):
            taken.append(step.bits)
            yield step

    if far.rank == 0:
        out = console()
        out.print(f"{far.plan}\n", soft_wrap=True)
        show(seen(), steps, out)
        alone = train(data, attend, length, min(steps, _COMPARED), heads)
        return max(abs(step.bits - bits) for step, bits in zip(alone, taken, strict=False))
    for _ in seen():
        pass
    return 0.0


def _over_segments(data: bytes, attend: Attention, length: int, steps: int, heads: int, device: torch.device) -> Train:
    """Segment by segment."""
    from attnspec.runtime.modules.segment_model import train_segments

    recurrence = attend.spec.recurrence
    assert recurrence is not None
    taken = train_segments(data, attend, length, steps, heads, device=device)
    if ahead := knows_ahead(attend.spec, heads):
        raise click.UsageError(f"--text trains to predict the next byte, and in {attend.spec.name} {ahead}")
    how = f", segment by segment of {recurrence.recur.size:,}"
    if next(recurrence.foreseen(length), None):
        assert recurrence.recall is not None
        read = recurrence.recall.tokens(recurrence.recur.size)
        how += (
            f"; the recall has read the first {read:,} of a segment before they are predicted: the loss is that of the "
            "others"
        )
    return taken, how


def show(taken: Iterator[Step], steps: int, out: Console | None) -> tuple[float, float]:
    """Print steps as they are taken, and how the loss fell: its mean over the first tenth of them, and over the last.

    Where nothing is to be printed on standard output there is a bar still.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

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
        for step in taken:
            bits.append(step.bits)
            bar.update(task, advance=1, description=f"{step.bits:.3f} bits per byte")
            if out is not None and (step.number % every == 0 or step.number == 1):
                recent = bits[-every:]
                out.print(
                    f"  step {step.number:5}  {sum(recent) / len(recent):.3f} bits per byte  {step.seconds:.1f} s"
                )
    tenth = max(1, steps // 10)
    first, last = sum(bits[:tenth]) / tenth, sum(bits[-tenth:]) / tenth
    if out is not None:
        out.print(f"loss: {first:.3f} bits per byte over the first {tenth} steps, {last:.3f} over the last {tenth}")
    return first, last


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


_MOST = 1024
"""Tokens of a segment in which is looked for what knows ahead."""


def knows_ahead(spec: Spec, heads: int) -> str:
    """Which token of a segment knows of one after it, through as many layers as it takes; empty if none does."""
    import numpy as np

    from attnspec.spec.axes import lengths, slices

    recurrence = spec.recurrence
    assert recurrence is not None
    tokens = min(recurrence.recur.size, _MOST)
    n, n_q = lengths(spec.axes, tokens)
    seen = spec.mask(n, n_q, heads)[0].any(axis=0)
    known = np.eye(n_q, dtype=np.float32)
    for rows, columns in slices(spec.axes, tokens).values():
        if rows is not None and columns is not None:
            known[:, rows] += seen[:, columns]
    while True:
        further = np.minimum(known @ known, 1)
        if (further > 0).sum() == (known > 0).sum():
            break
        known = further
    rows, _ = slices(spec.axes, tokens)[recurrence.recur.axis]
    assert rows is not None
    ahead = np.argwhere(np.triu(known[rows, rows], 1))
    if not len(ahead):
        return ""
    row, other = ahead[0]
    return f"position {row} of `{recurrence.recur.axis}` knows of position {other}, after it"
