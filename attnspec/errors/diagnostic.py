"""Errors as data (a code, a title, labelled places in the source, a note and a help), and how they are drawn.

A mistake in a spec is a :class:`SpecError`, which carries every mistake found in one run. Of what else escapes, an
:class:`AttnspecError` says what the user can do about it; the rest are bugs of ours.

>>> from attnspec.errors.source import Source, Span
>>> source = Source("demo.attn", "attend q < widht")
>>> print(Diagnostic("E011", "unknown name `widht`", ((Span(source, 11, 16), "not defined"),)))
error[E011]: unknown name `widht`
 --> demo.attn:1:12
  |
1 | attend q < widht
  |            ^^^^^ not defined
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from attnspec.errors.source import Source, Span

_WIDTH = 100  # columns of a source line that are shown; longer lines are clipped around the label
_TAB = 4
_RED, _BLUE, _CYAN, _BOLD, _OFF = "\x1b[1;31m", "\x1b[1;34m", "\x1b[1;36m", "\x1b[1m", "\x1b[0m"

MAX_ERRORS = 20
"""Mistakes of a kind that are told of one text: a screenful or two."""

Label = tuple[Span, str]


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One mistake. The first label is the place of the mistake; the others are places that explain it."""

    code: str
    title: str
    labels: tuple[Label, ...]
    note: str = ""
    help: str = ""

    @property
    def span(self) -> Span:
        """The place of the mistake."""
        return self.labels[0][0]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, for ``--json`` and editors; lines and columns count from 1, offsets from 0."""
        return {
            "code": self.code,
            "title": self.title,
            "labels": [_label_to_dict(span, text) for span, text in self.labels],
            "note": self.note,
            "help": self.help,
        }

    def __str__(self) -> str:
        return render(self)


class AttnspecError(Exception):
    """Something that is not a bug of ours: its text says what the user can do about it."""


class SpecError(AttnspecError):
    """The spec is wrong: all mistakes found, in the order of the source."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics: tuple[Diagnostic, ...] = tuple(diagnostics)
        super().__init__(self.diagnostics)

    def to_dict(self) -> dict[str, Any]:
        """All diagnostics as plain data."""
        return {"errors": [d.to_dict() for d in self.diagnostics]}

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.diagnostics))


def _label_to_dict(span: Span, text: str) -> dict[str, Any]:
    line, column = span.source.position(span.start)
    end_line, end_column = span.source.position(span.end)
    return {
        "file": span.source.name,
        "line": line,
        "column": column,
        "end_line": end_line,
        "end_column": end_column,
        "start": span.start,
        "end": span.end,
        "text": text,
    }


def render(diagnostic: Diagnostic, color: bool = False) -> str:
    """The text of a diagnostic for a terminal; with ``color``, ANSI codes are used."""

    def paint(text: str, code: str) -> str:
        return f"{code}{text}{_OFF}" if color else text

    by_source: dict[Source, list[_Mark]] = {}  # that of the primary label first
    for i, (span, text) in enumerate(diagnostic.labels):
        by_source.setdefault(span.source, []).append(_Mark(span, text, i == 0))
    gutter = max(len(str(span.source.position(span.start)[0])) for span, _ in diagnostic.labels)
    lines = [paint(f"error[{diagnostic.code}]", _RED) + paint(f": {diagnostic.title}", _BOLD)]
    for source, marks in by_source.items():
        line, column = source.position(marks[0].span.start)
        lines.append(f"{' ' * gutter}{paint('-->', _BLUE)} {_clean(source.name)}:{line}:{column}")
        lines.append(f"{' ' * gutter} {paint('|', _BLUE)}")
        previous: int | None = None
        for number in sorted({m.line for m in marks}):
            if previous is not None and number > previous + 1:
                lines.append(paint("...", _BLUE))
            here = [m for m in marks if m.line == number]
            text, rows = _draw(source, here)
            lines.append(f"{paint(f'{number:>{gutter}} |', _BLUE)} {text}".rstrip())
            for mark, row in zip(here, rows, strict=True):
                lines.append(f"{' ' * gutter} {paint('|', _BLUE)} {paint(row, _RED if mark.primary else _BLUE)}")
            previous = number
    for word, text in (("note", diagnostic.note), ("help", diagnostic.help)):
        if text:
            lines.append(f"{' ' * gutter} {paint('=', _BLUE)} {paint(word, _CYAN)}: {text}")
    return "\n".join(lines)


@dataclass(frozen=True)
class _Mark:
    span: Span
    text: str
    primary: bool

    @property
    def line(self) -> int:
        return self.span.source.position(self.span.start)[0]


def _draw(source: Source, marks: list[_Mark]) -> tuple[str, list[str]]:
    """A source line as shown, and one underline row per mark."""
    start = source.text.rfind("\n", 0, marks[0].span.start) + 1
    end = source.text.find("\n", start)
    line = source.text[start:] if end < 0 else source.text[start:end]
    first = min(m.span.start for m in marks) - start
    low, high = _window(line, first)
    head, tail = ("…" if low else ""), ("…" if high < len(line) else "")
    shown = head + "".join(map(_clean, line[low:high])) + tail
    rows = []
    for mark in marks:
        a = min(max(mark.span.start - start, low), high)
        b = min(max(mark.span.end - start, a), high)
        left = _width(line[low:a]) + len(head)
        under = ("^" if mark.primary else "-") * max(1, _width(line[a:b]))
        rows.append(f"{' ' * left}{under} {mark.text}".rstrip())
    return shown.rstrip(), rows


def _window(line: str, first: int) -> tuple[int, int]:
    """Which characters of a line to show: all if they fit, otherwise those around the first mark."""
    if len(line) <= _WIDTH:
        return 0, len(line)
    low = max(0, min(first - _WIDTH // 3, len(line) - _WIDTH))
    return low, min(len(line), low + _WIDTH)


def _clean(text: str) -> str:
    """Text that is safe to print: tabs become spaces, control characters (which could drive a terminal) a mark."""
    return "".join(" " * _TAB if c == "\t" else c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _width(text: str) -> int:
    """The columns that a text takes in a terminal."""
    return sum(_TAB if c == "\t" else _columns(c) for c in text)


def _columns(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
