"""The Pygments lexer knows the language's words and loses no text."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from importlib.resources import files
from pathlib import Path

import pytest
from pygments.token import Error, Keyword, Name

from attnspec.language.highlight import AttnspecLexer
from attnspec.language.load import shipped
from attnspec.language.words import CLAUSES, HEADINGS, LIBRARY, PARTICLES, SYNTAX


@pytest.mark.parametrize("name", shipped())
def test_shipped_specs_have_no_error(name: str) -> None:
    text = (files("attnspec") / "specs" / f"{name}.attn").read_text()
    tokens = list(AttnspecLexer(stripnl=False, ensurenl=False).get_tokens(text))
    assert "".join(part for _, part in tokens) == text
    assert not [part for kind, part in tokens if kind in Error]


def test_words_are_told_apart() -> None:
    tokens = [
        (kind, part) for kind, part in AttnspecLexer().get_tokens("attend width >= first(doc, q)") if part.strip()
    ]
    assert tokens[0] == (Keyword, "attend")
    assert (Name, "width") in tokens
    assert (Name.Builtin, "first") in tokens
    assert (Name.Variable, "q") in tokens


def test_all_words_of_the_grammar_are_known() -> None:
    grammar = (files("attnspec") / "language" / "grammar.lark").read_text()
    written = re.findall(r"^[A-Z_]+(?:\.\d)?: /(\(\?:[a-z|]+\)|[a-z]+)(?:\\b|\(\?=)", grammar, re.MULTILINE)
    words = {word for item in written for word in item.removeprefix("(?:").removesuffix(")").split("|")}
    assert words <= CLAUSES | HEADINGS | LIBRARY | PARTICLES | SYNTAX
    assert words >= PARTICLES


def test_the_entry_point_leads_to_it() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["pygments.lexers"]["attnspec"].partition(":")
    assert getattr(import_module(module), name) is AttnspecLexer
