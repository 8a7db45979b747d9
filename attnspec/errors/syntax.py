"""Mistakes in the syntax of a text."""

from __future__ import annotations

from attnspec.errors.catalogue import clip, diagnose
from attnspec.errors.diagnostic import Diagnostic
from attnspec.errors.foreign import SIGNS
from attnspec.errors.source import Span

MAX_SOURCE = 200_000
MAX_NESTING = 60


def unexpected(span: Span, found: str, expected: str, help: str = "") -> Diagnostic:
    """A token that cannot stand where it stands."""
    what = found.removeprefix("the ") if found.startswith("the ") else f"`{clip(found)}`"
    return diagnose("E001", f"unexpected {what}", (span, f"expected {expected}"), help=help)


def unclosed(opened: Span, at: Span, closer: str) -> Diagnostic:
    """An opening bracket without its closing one."""
    return diagnose(
        "E002", f"`{opened.text}` is never closed", (opened, "opened here"), (at, f"expected `{closer}` before this")
    )


def unopened(span: Span) -> Diagnostic:
    """A closing bracket without its opening one."""
    return diagnose("E002", f"`{span.text}` closes nothing", (span, "nothing is open that it could close"))


def bad_character(span: Span) -> Diagnostic:
    """A character that no word, number or sign begins with."""
    char = span.text
    name = f"`{char}`" if char.isprintable() else f"U+{ord(char[0]):04X}"
    return diagnose("E003", f"{name} means nothing here", (span, ""), help=SIGNS.get(char, ""))


def unclosed_string(span: Span) -> Diagnostic:
    """A string without its closing quotes."""
    quotes = '"""' if span.text.startswith('"""') else '"'
    return diagnose("E004", "this string is never closed", (span, f"expected `{quotes}` at its end"))


def too_long(span: Span, length: int) -> Diagnostic:
    """A source beyond the limit."""
    return diagnose("E006", "the source is too long", (span, f"{length:,} characters; the limit is {MAX_SOURCE:,}"))


def too_deep(span: Span) -> Diagnostic:
    """Expressions or groups inside each other beyond the limit."""
    return diagnose(
        "E007", "nested too deeply", (span, f"the limit is {MAX_NESTING} levels"),
        help="name a part of it with `let` or `pattern`",
    )  # fmt: skip


def nested_bars(inner: Span, outer: Span) -> Diagnostic:
    """``||x| - 1|``: legal to a machine, a riddle to a reader."""
    return diagnose(
        "E009", "|...| directly inside |...| needs brackets", (inner, "this one"), (outer, "inside this one"),
        help=f"write `({clip(inner.text)})`",
    )  # fmt: skip


def stray_doc(span: Span) -> Diagnostic:
    """A string before nothing."""
    return diagnose(
        "E010", "this string documents nothing", (span, ""),
        help="a docstring stands before a `pattern` or `attention`, or is the first line of its body",
    )  # fmt: skip


def no_branch(span: Span) -> Diagnostic:
    """``mix { attend ... }``."""
    return diagnose(
        "E032", "a mixture without a list has branches", (span, "expected `branch`, `let` or `within`"),
        help="write `branch { ... }` around what belongs to one softmax",
    )  # fmt: skip


def stray_branch(span: Span) -> Diagnostic:
    """``branch`` that is not directly inside ``mix { ... }``."""
    return diagnose("E032", "`branch` stands directly inside `mix { ... }`", (span, "not inside such a mixture"))
