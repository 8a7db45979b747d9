"""What the reference says of one construct, and a section of such entries.

>>> print(Entry("k <= q", "A comparison.", "attend k <= q", "query 2 sees 0 1 2"))
### `k <= q`
<BLANKLINE>
A comparison.
<BLANKLINE>
```
attend k <= q                                   # query 2 sees 0 1 2
```
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 100
"""Columns of the reference."""
_BESIDE = 48  # where the note beside an example begins


@dataclass(frozen=True, slots=True)
class Entry:
    """One construct: how it is written, what it means, and two lines that show it.

    ``example`` holds the clauses of an attention, or a whole file. ``shows`` says what comes of it with eight queries
    and keys, one head and one batch entry unless it says otherwise in brackets: it stands beside the last line, and
    ``tests/reference`` reads it and looks whether it is so.
    """

    head: str
    text: str
    example: str
    shows: str = ""

    def __str__(self) -> str:
        return f"### `{self.head}`\n\n{wrap(self.text)}\n\n{fenced(self.lines)}"

    @property
    def lines(self) -> str:
        """The example with what it shows beside it, or below it where there is no room."""
        if not self.shows:
            return self.example
        *before, last = self.example.split("\n")
        beside = f"{last:<{_BESIDE - 1}} # {self.shows}"
        return "\n".join([*before, *([beside] if len(beside) <= WIDTH else [last, f"# {self.shows}"])])


@dataclass(frozen=True, slots=True)
class Section:
    """Entries that belong together; ``topic`` is its name for ``attnspec help``."""

    topic: str
    title: str
    text: str
    entries: tuple[Entry, ...]


def wrap(text: str) -> str:
    """Paragraphs in the width of the reference; what is between backquotes stays on one line."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        words = [part.replace(" ", "\x00") if i % 2 else part for i, part in enumerate(paragraph.split("`"))]
        lines = textwrap.wrap("`".join(words), WIDTH, break_long_words=False, break_on_hyphens=False)
        paragraphs.append("\n".join(lines).replace("\x00", " "))
    return "\n\n".join(paragraphs)


def fenced(text: str, language: str = "") -> str:
    """A block of code."""
    return f"```{language}\n{text}\n```"


def table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table in Markdown that is one in a terminal too."""
    cells = [tuple(cell.replace("|", "\\|") for cell in row) for row in [heads, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads) - 1)]

    def line(row: tuple[str, ...]) -> str:
        return f"| {' | '.join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]])} |"

    return "\n".join([line(cells[0]), f"|{'|'.join('---' for _ in heads)}|", *map(line, cells[1:])])
