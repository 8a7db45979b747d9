"""Spaces between the tokens of a line, and where a line that is too long is broken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attnspec.language import words
from attnspec.language.scan import Token

WIDTH = 100
INDENT = 4
_STARTERS = words.CLAUSES | words.HEADINGS
_INNER = {"recur": "by", "carry": "last"}
"""Words inside clauses before an expression, which stand behind a name."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A token, how many spaces stand before it, and how many brackets are open around it."""

    text: str
    space: int
    depth: int


def pieces(tokens: list[Token], columns: Mapping[int, int] | None = None) -> list[Piece]:
    """Decide the spaces of a logical line; ``columns`` are more of them behind the names that end at an offset.

    >>> from attnspec.language.scan import scan
    >>> wrap(pieces(list(scan("attend -q+|k|<f( w=2 )[ 1 ]"))), 0)
    ['attend -q + |k| < f(w = 2)[1]']
    """
    out: list[Piece] = []
    brackets: list[str] = []
    operand = False  # whether the token before ends an operand
    added = 0  # spaces for the sake of a column
    tight = True  # whether nothing may stand between the token before and this one
    for i, token in enumerate(tokens):
        text = token.text
        word = token.kind == "name" and (text in words.SYNTAX - {"true", "false"} or _leads(tokens, i))
        closes = text in (")", "]") or (text == "|" and operand and "|" in brackets and brackets[-1] == "|")
        opens = text in ("(", "[") or (text == "|" and not closes)
        if closes and brackets:
            brackets.pop()
        space = not tight and not closes and text not in (",", ":", "..", ".")
        if text in ("(", "[") and operand:
            space = False  # a call, an index, a parameter list
        out.append(Piece(text, int(space) + (added if space else 0), len(brackets)))
        if columns and token.end in columns:
            added = columns[token.end]
        elif space:
            added = 0
        if opens:
            brackets.append(text)
        unary = text == "-" and not operand
        tight = opens or unary or text in ("..", ".")
        operand = closes or text == "}" or (token.kind in ("name", "number", "string") and not word)
    return out


def _leads(tokens: list[Token], i: int) -> bool:
    """Whether the token at i is a word before an expression because of its place, and not because it is reserved."""
    if i == 0:
        return tokens[0].text in _STARTERS
    if tokens[0].text in _INNER:
        return i > 1 and tokens[i].text == _INNER[tokens[0].text] and tokens[i - 1].kind == "name"
    if tokens[0].text != "branch" or (i == 1 and tokens[1].text == "for"):
        return tokens[0].text == "branch"
    before = tokens[i - 1]  # a name called `times` or `share` does not stand directly behind another operand
    ended = before.text in (")", "]") or before.kind in ("name", "number")
    ended = ended and before.text not in ("for", "in") and (i == 1 or not _leads(tokens, i - 1))
    return tokens[i].text in ("times", "share") and ended


def wrap(line: list[Piece], indent: int) -> list[str]:
    """The line as text, broken where it is too long: at the outermost `or`, then `and`, then commas."""
    text = " " * indent + _join(line)
    if len(text) <= WIDTH:
        return [text]
    if line[0].text == "pattern":
        at = next((i for i, p in enumerate(line) if p.text == "=" and p.depth == 0), len(line) - 1) + 1
        if at < len(line):
            return wrap(line[:at], indent) + wrap(line[at:], indent + INDENT)
    for depth in sorted({p.depth for p in line}):
        for word in ("or", "and", "else"):
            parts = _split(line, word, depth)
            if len(parts) > 1:
                first, *rest = parts
                return wrap(first, indent) + [x for part in rest for x in wrap(part, indent + INDENT)]
    return _fill(line, indent)


def _split(line: list[Piece], word: str, depth: int) -> list[list[Piece]]:
    """Cut a line before each `word` at a depth."""
    parts: list[list[Piece]] = [[]]
    for piece in line:
        if piece.text == word and piece.depth == depth and parts[-1]:
            parts.append([])
        parts[-1].append(piece)
    return parts


def _fill(line: list[Piece], indent: int) -> list[str]:
    """Break after commas, the outermost that suffice; what has no comma stays long."""
    rows = [" " * indent + _join(line)]
    for depth in sorted({p.depth for p in line if p.text == ","}):
        rows = _rows(line, indent, depth)
        if all(len(row) <= WIDTH for row in rows):
            break
    return rows


def _rows(line: list[Piece], indent: int, depth: int) -> list[str]:
    """Break after commas in no more than so many brackets, with as much in each line as fits."""
    items: list[list[Piece]] = [[]]
    for piece in line:
        if items[-1] and items[-1][-1].text == "," and items[-1][-1].depth <= depth:
            items.append([])
        items[-1].append(piece)
    out: list[list[Piece]] = []
    length = WIDTH + 1
    for item in items:
        size = len(_join(item)) + 1
        if length + size > WIDTH:
            length = indent + (INDENT if out else 0)
            out.append([])
        out[-1].extend(item)
        length += size
    return [" " * (indent + (INDENT if i else 0)) + _join(row) for i, row in enumerate(out)]


def _join(line: list[Piece]) -> str:
    return "".join((" " * p.space if i else "") + p.text for i, p in enumerate(line))
