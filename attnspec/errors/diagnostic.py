"""Errors as data: a code, a title, labelled places in the source, a note and a help.

A user's mistake is a :class:`SpecError`, which carries every mistake found in one run. Anything else that escapes is a
bug of ours.

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

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from attnspec.errors.source import Span

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
        from attnspec.render import render

        return render(self)


class SpecError(Exception):
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
