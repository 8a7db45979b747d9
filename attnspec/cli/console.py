"""The console, and a line on standard error that says what long work is doing."""

from __future__ import annotations

import io
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO, cast

import click

if TYPE_CHECKING:
    from rich.console import Console

_MARKS = "█▒·"
"""What pictures are made of; see :mod:`attnspec.analysis.picture`."""
_SECONDS = 3.0
"""Between two lines of progress."""


class _Plain(io.TextIOBase):
    """A stream that gets whole lines without trailing blanks, in ASCII where it has nothing better."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.rest = stream, ""
        try:
            _MARKS.encode(stream.encoding or "ascii")
            self.table = {}
        except (UnicodeEncodeError, LookupError):
            self.table = str.maketrans(_MARKS, "#-.")

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            self.stream.write(f"{line.rstrip().translate(self.table)}\n")
        return len(text)

    def flush(self) -> None:
        self.stream.write(self.rest.translate(self.table))
        self.rest = ""
        self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding


def console(stderr: bool = False) -> Console:
    """A console that is plain in a pipe, as wide as ``COLUMNS`` says or a terminal usually is, and cuts nothing."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    asked = os.environ.get("COLUMNS", "")
    width = None if stream.isatty() else int(asked) if asked.isdecimal() and int(asked) > 0 else 80

    class Lossless(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # the command line ends as unix tools do

    return Lossless(
        file=cast(TextIO, _Plain(stream)), width=width, highlight=False, soft_wrap=False, emoji=False, markup=False
    )


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
