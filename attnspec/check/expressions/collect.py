"""Collect the mistakes of one run: each once, at a place in the user's own text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from attnspec.errors.diagnostic import MAX_ERRORS, Diagnostic, SpecError
from attnspec.errors.source import Source, Span


class Report:
    """The mistakes found so far in one source."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.mistakes: dict[tuple[str, int, int], Diagnostic] = {}
        self._uses: list[Span] = []

    @contextmanager
    def inside(self, use: Span) -> Iterator[None]:
        """While a pattern or a name is written out: the place that uses it explains the mistakes in it."""
        self._uses.append(use)
        try:
            yield
        finally:
            self._uses.pop()

    def outermost(self, span: Span) -> Span:
        """Where the user's clause uses what is being written out; ``span`` itself outside of any use."""
        return self._uses[0] if self._uses else span

    def add(self, diagnostic: Diagnostic) -> None:
        """Note a mistake, unless the same place already has it. One inside the prelude is shown at its use."""
        mine = [use for use in self._uses if use.source is self.source]
        if diagnostic.span.source is not self.source:
            if mine:
                diagnostic = replace(diagnostic, labels=((mine[-1], "in this use"), *diagnostic.labels))
        elif mine:
            diagnostic = replace(diagnostic, labels=(*diagnostic.labels, (mine[0], "in this use")))
        self.mistakes.setdefault((diagnostic.code, diagnostic.span.start, diagnostic.span.end), diagnostic)

    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """All mistakes in the order of the source, at most as many as are told."""
        return tuple(sorted(self.mistakes.values(), key=lambda d: d.span.start)[:MAX_ERRORS])

    def check(self) -> None:
        """Raise the mistakes, if there are any."""
        if self.mistakes:
            raise SpecError(self.diagnostics())
