"""How expressions are written: how tightly each form binds, and what integers, predicates and reals write alike.

A node's ``_write`` gives its text and how tightly it binds; text that binds less tightly than its place asks for gets
brackets there, so that there are as few as can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

# Binding strengths, loosest first (Python's order; `if` binds loosest of all).
IF, OR, AND, NOT, COMPARE, SUM, PRODUCT, NEGATIVE, POWER, ATOM = range(10)

Text = tuple[str, int]
"""The text of a node, and how tightly it binds."""


class Written:
    """What has a text in the language: a base of all nodes."""

    __slots__ = ()

    def _write(self) -> Text:
        """The text, and how tightly it binds."""
        raise NotImplementedError

    def _at(self, strength: int) -> str:
        """The text, in brackets if it binds less tightly than the place it stands in."""
        text, binds = self._write()
        return text if binds >= strength else f"({text})"

    def _opposite(self) -> Written | None:
        """What follows the minus of an expression that is written with one."""
        return None

    def __str__(self) -> str:
        return self._write()[0]


class Shown:
    """What prints as text, and as that text in a notebook."""

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def number(value: float) -> Text:
    """An integer or a real constant."""
    return repr(value), ATOM if value >= 0 else NEGATIVE


def total(terms: Sequence[Written]) -> Text:
    """``a + b - c``."""
    if not terms:
        return "0", SUM
    text = terms[0]._at(PRODUCT)
    for term in terms[1:]:
        opposite = term._opposite()
        text += f" + {term._at(PRODUCT)}" if opposite is None else f" - {opposite._at(PRODUCT)}"
    return text, SUM


def product(left: Written, sign: str, right: Written) -> Text:
    """``a * b`` and what binds like it."""
    return f"{left._at(PRODUCT)} {sign} {right._at(NEGATIVE)}", PRODUCT


def negative(arg: Written) -> Text:
    """``-x``."""
    return f"-{arg._at(POWER)}", NEGATIVE


def absolute(arg: Written) -> Text:
    """``|x|``; bars inside stand in brackets."""
    inner = str(arg)
    return (f"|({inner})|" if "|" in inner else f"|{inner}|"), ATOM


def choice(cond: Written, then: Written, other: Written) -> Text:
    """``if cond then then else other``."""
    return f"if {cond._at(OR)} then {then._at(OR)} else {other}", IF


def over(word: str, var: str, domain: Written, body: Written) -> Text:
    """``any x in domain: body``."""
    return f"{word} {var} in {domain}: {body}", IF


def call(name: str, args: Sequence[Written]) -> Text:
    """``name(a, b)``."""
    return f"{name}({', '.join(map(str, args))})", ATOM


def read(name: str, indices: Sequence[Written]) -> Text:
    """An entry of an input, and of what is derived from one, for which the language has other words."""
    base, _, part = name.removeprefix(".").partition(".")
    places = list(map(str, indices))
    if part in ("first", "last"):
        return f"{part}({base}, {places[-1]})", ATOM
    if part == "bucket":
        return f"{'q' if places[-1] == 'q.slot' else 'k'}.bucket", ATOM
    if name == "row.mass":
        return "mass", ATOM
    if name == "alibi.slope":
        return f"alibi_slope({places[0]}, heads)", ATOM
    name = name.removeprefix(".")  # of an argument of kernels
    return (f"{name}[{', '.join(places)}]" if places else name), ATOM


def entry(of: object, indices: Sequence[Written]) -> Text:
    """``[1, 2][i]``: an entry of a list of numbers or lists, or of a named one."""
    return items(of) + "".join(f"[{index}]" for index in indices), ATOM


def items(value: object) -> str:
    """A (nested) list, or a number or name."""
    return f"[{', '.join(map(items, value))}]" if isinstance(value, tuple) else str(value)
