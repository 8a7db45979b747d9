"""The catalogue of mistakes in the text of a spec: one small function per kind, which says it in words.

Mistakes about values (divisors, products, ranges) are in :mod:`attnspec.errors.values`, those that show only on
the way to a relation or a kernel in :mod:`attnspec.errors.relations`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from attnspec.errors.diagnostic import Diagnostic, Label
from attnspec.errors.source import Span

CODES = {
    "E001": "unexpected token",
    "E002": "a bracket that is not closed, or never opened",
    "E003": "a character that means nothing",
    "E004": "a string that is not closed",
    "E006": "a source that is too long",
    "E007": "nested too deeply",
    "E008": "an integer that is too large",
    "E009": "|...| directly inside |...|",
    "E010": "a string that documents nothing",
    "E011": "an unknown name",
    "E012": "a reserved name",
    "E013": "a name defined twice",
    "E014": "a call of something that takes no arguments",
    "E015": "wrong arguments of a call",
    "E016": "a pattern that uses itself",
    "E017": "which attention is meant?",
    "E018": "a value for a parameter that does not exist",
    "E019": "a parameter without a value",
    "E020": "a value of the wrong type for a parameter",
    "E021": "an expression of the wrong type",
    "E022": "a comparison of things of different types",
    "E023": "a divisor that is not positive",
    "E024": "a divisor that is not constant",
    "E025": "a product of two positions",
    "E026": "a power that has no integer value",
    "E027": "an index outside the list",
    "E028": "a value that must be known at compile time",
    "E029": "a range that is too large",
    "E030": "a pattern that grows too large",
    "E031": "a list of different things",
    "E032": "a clause in a place where it means nothing",
    "E401": "a size that the relation depends on is not known",
    "E402": "a list that does not cover the heads of a call",
    "E403": "a line that is not affine",
    "E404": "a pattern that is too irregular for the solver",
    "E405": "numbers too large for a kernel",
    "E408": "a list that is too long for a Triton kernel",
}
"""All error codes, with what they are about."""

MAX_SOURCE = 200_000
MAX_NESTING = 60


def diagnose(code: str, title: str, *labels: Label, note: str = "", help: str = "") -> Diagnostic:
    """A diagnostic with a code of the catalogue."""
    assert code in CODES
    return Diagnostic(code, title, labels, note, help)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suggestion of the nearest known name, or nothing."""
    close = nearest(name, known)
    return f"did you mean `{close}`?" if close else ""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like a name, unless it is one itself."""
    names = set(known)
    return None if name in names else next(iter(get_close_matches(name, sorted(names), n=1, cutoff=0.6)), None)


def _clip(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 40 else text[:37] + "..."


# Syntax


def unexpected(span: Span, found: str, expected: str, help: str = "", also: tuple[Label, ...] = ()) -> Diagnostic:
    """A token that cannot stand where it stands."""
    what = found.removeprefix("the ") if found.startswith("the ") else f"`{_clip(found)}`"
    return diagnose("E001", f"unexpected {what}", (span, f"expected {expected}"), *also, help=help)


def unclosed(opened: Span, at: Span, closer: str) -> Diagnostic:
    """An opening bracket without its closing one."""
    return diagnose(
        "E002", f"`{opened.text}` is never closed", (opened, "opened here"), (at, f"expected `{closer}` before this")
    )


def unopened(span: Span) -> Diagnostic:
    """A closing bracket without its opening one."""
    return diagnose("E002", f"`{span.text}` closes nothing", (span, "nothing is open that it could close"))


_SIGN_HELP = {
    "&": "write `and`",
    "&&": "write `and`",
    "!": "write `not`, or `!=` for unequal",
    "~": "write `not`",
    "^": "a power is written `**`",
    ";": "clauses need nothing between them",
    "'": 'strings stand in double quotes: "..."',
}


def bad_character(span: Span) -> Diagnostic:
    """A character that no word, number or sign begins with."""
    char = span.text
    name = f"`{char}`" if char.isprintable() else f"U+{ord(char[0]):04X}"
    return diagnose("E003", f"{name} means nothing here", (span, ""), help=_SIGN_HELP.get(char, ""))


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
        help=f"write `({_clip(inner.text)})`",
    )  # fmt: skip


def stray_doc(span: Span) -> Diagnostic:
    """A string before nothing."""
    return diagnose(
        "E010", "this string documents nothing", (span, ""),
        help="a docstring stands before a `pattern` or `attention`, or is the first line of its body",
    )  # fmt: skip


def no_branch(span: Span) -> Diagnostic:
    """``mix { attend ... }``."""
    return misplaced(
        span, "a mixture without a list has branches", "expected `branch`, `let` or `within`",
        "write `branch { ... }` around what belongs to one softmax",
    )  # fmt: skip


def stray_branch(span: Span) -> Diagnostic:
    """``branch`` that is not directly inside ``mix { ... }``."""
    return misplaced(span, "`branch` stands directly inside `mix { ... }`", "not inside such a mixture")


# Names and calls


def unknown_name(span: Span, name: str, known: Iterable[str]) -> Diagnostic:
    """A name that nothing defines."""
    return diagnose("E011", f"unknown name `{_clip(name)}`", (span, "not defined"), help=did_you_mean(name, known))


def unknown_field(span: Span, name: str) -> Diagnostic:
    """``q.something``."""
    return diagnose("E011", f"nothing has a field `{_clip(name)}`", (span, "not defined"))


def reserved(span: Span, name: str) -> Diagnostic:
    """A definition of a name that has a meaning already."""
    return diagnose(
        "E012", f"the name `{name}` is reserved", (span, "cannot be defined"), help="choose another name",
        note="q k h b n n_q heads kv_heads batch and the words of expressions have a fixed meaning",
    )  # fmt: skip


def defined_twice(span: Span, what: str, first: Span) -> Diagnostic:
    """A second definition under one name."""
    return diagnose("E013", f"{what} is defined twice", (span, "defined again"), (first, "first defined here"))


def not_callable(span: Span, name: str, what: str) -> Diagnostic:
    """A call of an integer, a list, ..."""
    return diagnose("E014", f"`{_clip(name)}` takes no arguments: it is {what}", (span, what))


def wrong_arguments(span: Span, title: str, label: str, *also: Label, help: str = "") -> Diagnostic:
    """Missing, surplus, repeated or misspelt arguments."""
    return diagnose("E015", title, (span, label), *also, help=help)


def recursion(names: list[str], labels: list[Label]) -> Diagnostic:
    """Patterns that use each other in a circle."""
    title = f"the pattern `{names[0]}` uses itself"
    circle = " -> ".join([*names, names[0]])
    return diagnose("E016", title, *labels, note=f"{circle}; a pattern must end in comparisons")


# Which attention, which parameters


def which_attention(span: Span, names: list[str], wanted: str | None) -> Diagnostic:
    """No attention of that name, none at all, or several without a choice."""
    if not names:
        return diagnose("E017", "there is no attention in this file", (span, "no `attention` here"))
    listed = ", ".join(f"`{name}`" for name in names)
    if wanted is None:
        return diagnose(
            "E017", "this file has several attentions", (span, f"it has {listed}"),
            help=f"name one of them, as in `{_clip(span.source.name)}:{names[0]}`",
        )  # fmt: skip
    return diagnose(
        "E017", f"there is no attention `{_clip(wanted)}`", (span, f"this file has {listed}"),
        help=did_you_mean(wanted, names),
    )  # fmt: skip


def unknown_parameter(span: Span, attention: str, name: str, known: list[str]) -> Diagnostic:
    """A value given for a parameter that the attention does not have."""
    has = "its parameters are " + ", ".join(f"`{k}`" for k in known) if known else "it has no parameters"
    return diagnose(
        "E018", f"`{attention}` has no parameter `{_clip(name)}`", (span, has), help=did_you_mean(name, known)
    )


def missing_parameter(span: Span, attention: str, name: str) -> Diagnostic:
    """A parameter without default and without a given value."""
    return diagnose(
        "E019", f"the parameter `{name}` of `{attention}` needs a value", (span, "has no default"),
        help=f"give one, as in `{name}=1`",
    )  # fmt: skip


def wrong_parameter_type(span: Span, name: str, wanted: str, got: str) -> Diagnostic:
    """A given value of another type than the default."""
    return diagnose("E020", f"the parameter `{name}` is {wanted}, but was given {got}", (span, f"this is {wanted}"))


def unusable_parameter(span: Span, name: str, got: str) -> Diagnostic:
    """A given value that is of no type the language has."""
    return diagnose(
        "E020", f"the parameter `{name}` cannot be {got}", (span, "an integer, a boolean or a list is wanted")
    )


def misplaced(span: Span, title: str, label: str, help: str = "") -> Diagnostic:
    """A clause that means nothing where it stands."""
    return diagnose("E032", title, (span, label), help=help)
