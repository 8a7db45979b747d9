r"""Lay out a source file in the one style: four spaces, one clause to a line, lines of at most 100 columns.

Words, signs, strings and comments are kept as they are and in their order; only the white space between them changes,
so the meaning cannot. Formatting what is formatted changes nothing.

>>> print(format_source("attention a(w=4){attend 0<=q-k<w # near\n\n\n attend k<2}"), end="")
attention a(w = 4) {
    attend 0 <= q - k < w  # near
<BLANKLINE>
    attend k < 2
}
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from attnspec.errors.source import Source
from attnspec.language import tree as t
from attnspec.language.parse import parse
from attnspec.language.scan import Token, scan
from attnspec.language.spacing import INDENT, Piece, pieces, wrap


def format_source(text: str, filename: str = "<text>") -> str:
    """The same source in the one style; SpecError if it does not parse."""
    text = text.replace("\r\n", "\n")
    source = Source(filename, text)
    file = parse(source)
    lines = _lines(list(scan(text)), _starts(file), _columns(file), text)
    return "".join(f"{line}\n" for line in lines)


def _starts(file: t.File) -> dict[int, int]:
    """The offsets at which a line begins, with the level of its indentation."""
    starts: dict[int, int] = {}
    if file.doc:
        starts[file.doc.span.start] = 0
    for item in file.items:
        starts[item.span.start] = 0
        for doc in item.docs:
            starts[doc.span.start] = int(doc.span.start > item.span.start)
        if isinstance(item, t.Pattern):
            if any(doc.span.start > item.span.start for doc in item.docs):
                starts[item.body.span.start] = 1
        else:
            starts[item.span.end - 1] = 0
            _clauses(item.clauses, 1, starts)
    return starts


def _clauses(clauses: tuple[t.Clause, ...], level: int, starts: dict[int, int]) -> None:
    for clause in clauses:
        starts[clause.span.start] = level
        if isinstance(clause, t.Group):
            if clause.doc:
                starts[clause.doc.span.start] = level + 1
            starts[clause.span.end - 1] = level
            _clauses(clause.clauses, level + 1, starts)


def _columns(file: t.File) -> dict[int, int]:
    """Offsets at which spaces are added, and how many: neighbouring lines between axes stand under each other."""
    added: dict[int, int] = {}
    work = [attention.clauses for attention in file.attentions]
    while work:
        clauses = work.pop()
        work += [c.clauses for c in clauses if isinstance(c, t.Group)]
        for together, group in groupby(clauses, lambda c: isinstance(c, t.Arrow)):
            if together:
                _align([c for c in group if isinstance(c, t.Arrow)], added)
    return added


def _align(arrows: list[t.Arrow], added: dict[int, int]) -> None:
    sources = max(len(a.source.name) for a in arrows)
    targets = max(len(a.target.name) for a in arrows)
    for arrow in arrows:
        added[arrow.source.span.end] = sources - len(arrow.source.name)
        added[arrow.target.span.end] = targets - len(arrow.target.name)


@dataclass
class _Line:
    """One logical line: tokens with the comments among them."""

    level: int
    tokens: list[Token]
    columns: dict[int, int]

    def layout(self) -> list[str]:
        """The line as text; a comment inside ends a physical line."""
        out: list[str] = []
        run: list[Token] = []
        given = iter(pieces([token for token in self.tokens if token.kind != "comment"], self.columns))
        for token in self.tokens:
            if token.kind != "comment":
                run.append(token)
                continue
            alone = token.first or not (run or out)
            out += self._flush([next(given) for _ in run], bool(out))
            run = []
            if alone:
                out.append(" " * self._indent(bool(out)) + token.text.rstrip())
            else:
                out[-1] += f"  {token.text.rstrip()}"
        return out + self._flush([next(given) for _ in run], bool(out))

    def _flush(self, run: list[Piece], continued: bool) -> list[str]:
        return wrap(run, self._indent(continued)) if run else []

    def _indent(self, continued: bool) -> int:
        return INDENT * (self.level + continued)


def _lines(tokens: list[Token], starts: dict[int, int], columns: dict[int, int], text: str) -> list[str]:
    out: list[str] = []
    level = 0
    previous: Token | None = None
    i = 0
    while i < len(tokens):
        token = tokens[i]
        gap = previous is not None and text.count("\n", previous.end, token.start) > 1
        if token.kind == "comment":
            if previous is not None and not token.first and out:
                out[-1] += f"  {token.text.rstrip()}"
            else:
                out += [""] * (gap and not _opens(out)) + [" " * (INDENT * level) + token.text.rstrip()]
            previous = token
            i += 1
            continue
        level = starts[token.start]
        end = i + 1
        while end < len(tokens) and tokens[end].start not in starts:
            end += 1
        while tokens[end - 1].kind == "comment":  # comments behind a line are not in it
            end -= 1
        if token.text == "}":
            while out and not out[-1]:
                out.pop()
        elif gap and not _opens(out):
            out.append("")
        out += _Line(level, tokens[i:end], columns).layout()
        previous = tokens[end - 1]
        level += previous.text in ("{", "=")
        i = end
    return out


def _opens(out: list[str]) -> bool:
    """Whether the last line opens a body, behind which no blank line stands."""
    return not out or out[-1].split("#")[0].rstrip().endswith("{")
