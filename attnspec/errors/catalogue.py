"""The codes of all mistakes, and what the functions that say them in words have in common.

Each kind of mistake has one small function: in :mod:`attnspec.errors.syntax`, :mod:`attnspec.errors.names` (calls and
parameters too), :mod:`attnspec.errors.values` (and types), :mod:`attnspec.errors.clauses`, and
:mod:`attnspec.errors.relations` for what shows only on the way to a relation or a kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from attnspec.errors.diagnostic import Diagnostic, Label

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
    "E016": "a pattern that uses itself, or an attention that includes itself",
    "E017": "which attention is meant?",
    "E018": "a value for a parameter that does not exist",
    "E019": "a parameter without a value",
    "E020": "a value of the wrong type for a parameter",
    "E021": "an expression of the wrong type",
    "E022": "a comparison of things of different types",
    "E023": "a divisor that is not positive",
    "E024": "a divisor that is not constant",
    "E026": "a power that has no integer value",
    "E027": "an index outside the list",
    "E028": "a value that must be known at compile time",
    "E029": "a range that is too large",
    "E030": "a pattern that grows too large",
    "E031": "a list of different things",
    "E032": "a clause in a place where it means nothing",
    "E041": "an input that cannot be declared so",
    "E042": "a read of an input that does not fit it",
    "E043": "a real number that is not finite",
    "E044": "a score, sink, share or rotation that reads what it may not",
    "E045": "an option that does not exist, or has a wrong value",
    "E046": "a mixture that cannot be one",
    "E047": "a mistake about axes",
    "E048": "a mistake about the order of positions",
    "E049": "a mistake about weights beyond softmax",
    "E050": "a mistake about segments that follow one another",
    "E401": "a size that the relation depends on is not known",
    "E402": "a list that does not cover the heads of a call",
    "E403": "a line that is not affine",
    "E404": "a pattern that is too irregular for the solver",
    "E405": "numbers too large for a kernel",
    "E406": "a question that only the contents of inputs answer",
    "E407": "a question that several axes have no answer to",
    "E408": "a list that is too long for a Triton kernel",
    "E409": "weights for which there is no kernel",
    "E410": "a pattern that looks ahead where it must not",
    "E411": "a pattern that FlexAttention cannot compute",
}
"""All error codes, with what they are about."""


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


def clip(text: str) -> str:
    """What the user wrote, short enough for a title."""
    text = " ".join(text.split())
    return text if len(text) <= 40 else text[:37] + "..."


def listed(names: Sequence[str]) -> str:
    """Names in words, as the language writes them."""
    written = {"m": "n", "q_slot": "q.slot", "k_slot": "k.slot", "order": "q.bucket", "alibi": "alibi_slope"}
    quoted = [f"`{written.get(n, n)}`" for n in names]
    if not quoted:  # constant, but not so simple that the checker works it out
        return "more than numbers"
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
