"""A line on standard error that says what long work is doing; nothing where standard error is not a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from attnspec.cli.options import console


@contextmanager
def progress(title: str) -> Iterator[Callable[[str], None]]:
    """Yields a function that is told what happens next."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    out = console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task(title)

        def tick(what: str) -> None:
            bar.update(task, description=f"{title}: {what}")

        yield tick
