"""The console, and a line on standard error that says what long work is doing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


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
    """Yields a function that is told what happens next. Prints nothing where standard error is not a terminal."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    out = console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task(title)

        def tick(what: str) -> None:
            bar.update(task, description=f"{title}: {what}")

        yield tick
