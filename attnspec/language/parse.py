"""Source text to tree: the only module that knows lark.

>>> from attnspec.errors.source import Source
>>> file = parse(Source("demo", "attention local(width = 4) { attend 0 <= q - k < width }"))
>>> [attention.name.name for attention in file.attentions]
['local']
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import lark

from attnspec.errors.diagnostic import MAX_ERRORS, Diagnostic, SpecError
from attnspec.errors.source import Source, Span
from attnspec.errors.syntax import MAX_SOURCE, too_deep, too_long
from attnspec.language import tree as t
from attnspec.language.from_lark import TooDeep, build
from attnspec.language.recover import Outline, SyntaxProblem

_MAX_WORK = 300_000  # characters parsed for one file, all attempts together: keeps hostile files fast


@dataclass(frozen=True)
class Parsed:
    """What could be read of a file. With ``problems`` the offending clauses are missing from ``file``.

    ``lost`` are names that the missing clauses may have defined, so that their uses are not reported as well;
    ``complete`` says that every attention and pattern heading was understood.
    """

    file: t.File
    problems: tuple[Diagnostic, ...]
    lost: frozenset[str]
    complete: bool


def parse(source: Source) -> t.File:
    """The tree of a file, or a SpecError with all its syntax errors."""
    parsed = parse_all(source)
    if parsed.problems:
        raise SpecError(parsed.problems)
    return parsed.file


def parse_all(source: Source) -> Parsed:
    """The tree of what parses, and every syntax error: an offending clause is noted, blanked out and left."""
    if len(source.text) > MAX_SOURCE:
        raise SpecError([too_long(Span(source, 0, 0), len(source.text))])
    problems: list[Diagnostic] = []
    lost: set[str] = set()
    complete = True
    text = source.text
    work = 0
    torn = False
    while True:
        outline = Outline(text, source)
        bad = outline.bad_tokens(MAX_ERRORS)
        if not bad:
            result = _attempt("file", text, source, outline)
            if not isinstance(result, SyntaxProblem):
                file, late = result
                # Behind a brace that was guessed, a clause may seem to stand in a mixture that it is not meant for.
                guessed = any(d.code == "E002" for d in problems)
                problems += [d for d in late if not (guessed and d.code == "E032")][:MAX_ERRORS]
                break
            bad = [result]
        # A string that is never closed hides the brace behind it.
        problems += [p.diagnostic for p in bad if not (p.repair == "close" and torn)]
        torn = torn or any(p.diagnostic.code == "E004" for p in bad)
        text, names, whole = outline.blank(bad)
        lost |= names
        complete = complete and not whole
        work += len(text)
        if len(problems) >= MAX_ERRORS or work > _MAX_WORK:
            file, complete = t.File(source, None, ()), False
            break
    problems.sort(key=lambda d: d.span.start)
    return Parsed(file, tuple(problems), frozenset(lost), complete)


def parse_value(source: Source) -> t.Expr:
    """The tree of a single expression, as given on a command line."""
    if len(source.text) > MAX_SOURCE:
        raise SpecError([too_long(Span(source, 0, 0), len(source.text))])
    outline = Outline(source.text, source)
    bad = outline.bad_tokens(1)
    result = bad[0] if bad else _attempt("value", source.text, source, outline)
    if isinstance(result, SyntaxProblem):
        raise SpecError([result.diagnostic])
    value, late = result
    if late:
        raise SpecError(late)
    assert isinstance(value, t.Expr)
    return value


def _attempt(start: str, text: str, source: Source, outline: Outline) -> tuple[Any, list[Diagnostic]] | SyntaxProblem:
    """Parse once: our tree, or the first thing that is wrong with the text."""
    try:
        return build(_parser().parse(text, start=start), source)
    except lark.UnexpectedToken as error:
        history = error.token_history or []
        at = len(text) if error.token.type == "$END" else error.token.start_pos
        before = next((h.start_pos for h in history if h is not None and h.type == "NAME"), None)
        return outline.explain(at, before, frozenset(_accepted(error)))
    except TooDeep as error:
        return SyntaxProblem(error.start, too_deep(Span(source, error.start, error.end)))


@cache
def _parser() -> lark.Lark:
    return lark.Lark(
        Path(__file__).with_name("grammar.lark").read_text(encoding="utf-8"),
        parser="lalr",
        start=["file", "value"],
        propagate_positions=True,
        maybe_placeholders=False,
    )


def _accepted(error: lark.UnexpectedToken) -> Iterator[str]:
    """What could have stood in place of the unexpected token: signs by their text, other tokens by their name."""
    for name in error.accepts or error.expected:
        if name == "$END":
            yield "the end"
            continue
        pattern = _parser().get_terminal(name).pattern
        yield pattern.value if isinstance(pattern, lark.lexer.PatternStr) else name
