"""Collect the mistakes of one run: each once, at a place in the user's own text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from attnspec.errors.diagnostic import MAX_ERRORS, Diagnostic, Label, SpecError
from attnspec.errors.source import Source, Span


class Report:
    """The mistakes found so far in one source."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.mistakes: dict[tuple[str, int, int], Diagnostic] = {}
        self._uses: list[Label] = []
        self._from: dict[Source, Label] = {}

    @contextmanager
    def inside(self, use: Span, label: str = "in this use") -> Iterator[None]:
        """While something is written out: the place that uses it explains the mistakes in it."""
        self._uses.append((use, label))
        try:
            yield
        finally:
            self._uses.pop()

    def entered(self, source: Source) -> None:
        """Inside a use: what comes is written in a text that may be another; mistakes there say how it came in."""
        mine = [(use, label) for use, label in self._uses if use.source is self.source]
        if source is not self.source and mine:
            self._from.setdefault(source, mine[-1])

    def outermost(self, span: Span) -> Span:
        """Where the user's clause uses what is being written out; ``span`` itself outside of any use."""
        return self._uses[0][0] if self._uses else span

    def add(self, diagnostic: Diagnostic) -> None:
        """Note a mistake, unless the same place already has it. One in another text is shown at its use."""
        mine = [(use, label) for use, label in self._uses if use.source is self.source]
        if diagnostic.span.source is not self.source:
            if mine:
                diagnostic = replace(diagnostic, labels=(mine[-1], *diagnostic.labels))
        elif mine:
            diagnostic = replace(diagnostic, labels=(*diagnostic.labels, mine[0]))
        for span, _ in diagnostic.labels:
            use = self._from.get(span.source)
            if use is not None and use not in diagnostic.labels:
                other = diagnostic.span.source is not self.source
                diagnostic = replace(
                    diagnostic, labels=(use, *diagnostic.labels) if other else (*diagnostic.labels, use)
                )
        self.mistakes.setdefault((diagnostic.code, diagnostic.span.start, diagnostic.span.end), diagnostic)

    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """All mistakes in the order of the source, at most as many as are told."""
        return tuple(sorted(self.mistakes.values(), key=lambda d: d.span.start)[:MAX_ERRORS])

    def check(self) -> None:
        """Raise the mistakes, if there are any."""
        if self.mistakes:
            raise SpecError(self.diagnostics())
