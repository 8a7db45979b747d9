"""Colours for specs in notebooks, Sphinx and wherever else Pygments is: made from the words of the language.

It is found by its name, ``attnspec`` (the entry point ``pygments.lexers``), and by the ending of files, ``.attn``.

>>> from pygments.lexers import get_lexer_by_name
>>> lexer = AttnspecLexer()
>>> [(str(kind), text) for kind, text in lexer.get_tokens("attend q >= k") if text.strip()][0]
('Token.Keyword', 'attend')
"""

from __future__ import annotations

from typing import ClassVar

from pygments.lexer import RegexLexer, bygroups, words
from pygments.token import Comment, Error, Keyword, Name, Number, Operator, Punctuation, String, Whitespace

from attnspec.language.words import BUILTINS, CLAUSES, HEADINGS, LIBRARY, PARTICLES, SYNTAX, VARIABLES


def _any(names: frozenset[str]) -> words:
    return words(sorted(names), prefix=r"\b", suffix=r"\b")


class AttnspecLexer(RegexLexer):  # type: ignore[misc]
    """The language of attention patterns."""

    name = "attnspec"
    aliases: ClassVar = ["attnspec", "attn"]
    filenames: ClassVar = ["*.attn"]
    tokens: ClassVar = {
        "root": [
            (r"[\s\ufeff]+", Whitespace),
            (r"#[^\n]*", Comment.Single),
            (r'"""[\s\S]*?"""', String.Doc),
            (r'"(?!"")[^"\n]*"', String.Doc),
            (rf"({'|'.join(sorted(HEADINGS))})(\s+)(\w+)", bygroups(Keyword.Declaration, Whitespace, Name.Function)),
            (_any(CLAUSES), Keyword),
            (_any(SYNTAX), Operator.Word),
            (_any(PARTICLES), Keyword.Pseudo),
            (_any(VARIABLES), Name.Variable),
            (_any(BUILTINS | LIBRARY), Name.Builtin),
            (r"[A-Za-z_]\w*", Name),
            (r"[0-9][0-9_]*(\.[0-9][0-9_]*([eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)", Number.Float),
            (r"[0-9][0-9_]*", Number.Integer),
            (r"->|\.\.|//|\*\*|<=|>=|==|!=|[-+*/%<>=|]", Operator),
            (r"[][(){},:.]", Punctuation),
            (r".", Error),
        ]
    }
