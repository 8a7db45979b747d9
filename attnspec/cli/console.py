"""The console, and a line on standard error that says what long work is doing."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

_SECONDS = 3.0
"""Between two lines of progress."""


def console(stderr: bool = False) -> Console:
    """A console that is plain in a pipe and does not cut what it prints."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 120

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # the command line ends as unix tools do

    return Plain(stderr=stderr, width=width, highlight=False, soft_wrap=False, emoji=False, markup=False)


@contextmanager
def progress(title: str) -> Iterator[Callable[[str], None]]:
    """Yields a function that is told what happens next.

    On a terminal that is one line that changes; elsewhere lines on standard error, at most one in some seconds.
    """
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    out = console(stderr=True)
    if not out.is_terminal:
        said, at = "", -math.inf

        def line(what: str) -> None:
            nonlocal said, at
            if what != said and time.monotonic() - at >= _SECONDS:
                said, at = what, time.monotonic()
                click.echo(f"{title}: {what}", err=True)

        yield line
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task(title)

        def tick(what: str) -> None:
            bar.update(task, description=f"{title}: {what}")

        yield tick
