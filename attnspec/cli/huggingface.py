"""``attnspec run --hf SIZE``: a small Llama attends by a pattern, learns a text, and writes with a bounded cache."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnspec.cli.console import console, progress
from attnspec.cli.training import restrict, show

if TYPE_CHECKING:
    import torch

    from attnspec.runtime.attention import Attention

LENGTH, PROMPT, WRITTEN = 512, 256, 256
"""Bytes of a step of training, of what the model is to go on from, and that it writes."""
DEFAULT = ("sinks", {"start": 4, "recent": 124})
NEAR = 1e-3
"""By how much logits may differ, by rounding."""


def run_huggingface(
    attend: Attention,
    size: str,
    path: Path | None,
    steps: int,
    length: int,
    heads: int | None,
    device: torch.device,
    as_json: bool,
) -> None:
    """Train and write, and say what came of it; status 1 if the cache has lost something.

    Without a text it is the reference of the language.
    """
    try:
        from attnspec.runtime.huggingface.tiny import SIZES, llama, write
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise click.UsageError("--hf needs transformers: pip install 'attnspec[hf]'") from None
    import torch

    from attnspec.report.model import report
    from attnspec.runtime.core.arguments import CallError
    from attnspec.runtime.huggingface.pattern import Pattern
    from attnspec.runtime.modules.byte_model import steps_on

    try:
        Pattern.of(attend, {}, restart=True)
    except CallError as error:
        other = " --text FILE` trains a small model with it" if attend.spec.recurrence else "` runs it by itself"
        raise click.UsageError(
            f"{error}. (--hf takes what can stand in the place of a mask: a pattern of one sequence that reads "
            f"positions alone. `attnspec run {attend.spec.name}{other})"
        ) from None
    out, name = console(), "the reference of the language" if path is None else path.name
    data = files("attnspec.language").joinpath("REFERENCE.md").read_bytes() if path is None else path.read_bytes()
    if len(data) < max(length, PROMPT) + 1:
        raise click.UsageError(f"{name} has {len(data):,} bytes; at least {max(length, PROMPT) + 1:,} are needed")
    width = SIZES[size][0]
    if heads and width % (2 * heads):
        raise click.UsageError(f"--heads {heads}: the width of --hf {size}, {width}, is no multiple of {2 * heads}")
    causal = restrict(attend, heads or SIZES[size][2])
    model: Any = llama(size, causal, heads).to(device)
    if not as_json:
        if causal is not attend:
            out.print(f"{attend.spec.name} looks ahead; to predict the next byte it is restricted to k <= q")
        out.print(f"{report(model, n=PROMPT + WRITTEN)}\n", soft_wrap=True)
        out.print(f"trains on {name} ({len(data):,} bytes), {steps} steps of {length:,} bytes")

    def loss(piece: torch.Tensor) -> torch.Tensor:
        logits = model(piece[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), piece[0, 1:])

    first, last = show(steps_on(data, length, steps, model, loss, 0, device), steps, None if as_json else out)
    with progress("writing") as tick:
        tick(f"{WRITTEN} bytes, one by one")
        found = write(model, torch.tensor([list(data[:PROMPT])], device=device), WRITTEN)
    right = found.error <= NEAR
    if as_json:
        facts = {"agrees": right, "bits_before": first, "bits_after": last, "bytes_per_second": found.rate}
        written = {**asdict(found), "text": found.text.decode("utf-8", "replace")}
        click.echo(json.dumps({**facts, **written, "pattern": str(causal.spec), "steps": steps}, indent=2))
        sys.exit(0 if right else 1)
    out.print(
        f"writes {WRITTEN} bytes behind the first {PROMPT}: {found.rate:,.0f} bytes a second; its cache takes "
        f"{found.cache_bytes:,} bytes ({found.kept}), and all keys and values would take {found.all_keys:,}",
        soft_wrap=True,
    )
    out.print(f"  {found.text.decode('utf-8', 'replace')!r}", soft_wrap=True)
    word = "right: logits with the cache are" if right else "WRONG: logits with the cache are not"
    out.print(f"{word} those of the whole sequence at once, to {found.error:.1e}", style="bold", soft_wrap=True)
    sys.exit(0 if right else 1)
