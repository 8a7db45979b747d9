"""Cut a source into words, numbers, signs, strings and comments, without knowing the grammar.

Two readers need this: the formatter, for the comments that the grammar skips, and the recovery from syntax errors, for
finding where a clause begins in a text that does not parse.

>>> [token.text for token in scan("attend q<=k # causal")]
['attend', 'q', '<=', 'k', '# causal']
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_PATTERN = re.compile(
    r'''(?P<string>"""[\s\S]*?"""|"(?!"")[^"\n]*")'''
    r'''|(?P<open>"""[\s\S]*|"[^"\n]*)'''
    r"""|(?P<comment>\#[^\n]*)"""
    r"""|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"""
    r"""|(?P<number>[0-9](?:_?[0-9])*(?:\.[0-9](?:_?[0-9])*(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)?)"""
    r"""|(?P<sign>->|\.\.|\*\*|//|<=|>=|==|!=|[-+*/%<>=()\[\]{}|,:.])"""
    r"""|(?P<space>[\s\ufeff]+)"""
    r"""|(?P<other>&&|[\s\S])"""
)


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of source; ``kind`` is string, open (a string never closed), comment, name, number, sign or other."""

    kind: str
    text: str
    start: int
    first: bool
    """Whether it is the first on its line."""

    @property
    def end(self) -> int:
        """The offset after its last character."""
        return self.start + len(self.text)


def scan(text: str) -> Iterator[Token]:
    """All tokens of a text but white space, in order; every text can be scanned."""
    first = True
    for match in _PATTERN.finditer(text):
        kind = match.lastgroup
        assert kind is not None
        if kind == "space":
            first = first or "\n" in match.group()
            continue
        yield Token(kind, match.group(), match.start(), first)
        first = False
