"""What is said of one code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mistake:
    """What a code means, a text that gives it, how to mend it, and that text mended.

    Texts are the clauses of an attention, or whole files; ``wrong_given`` and ``right_given`` are what is given with
    them: values of parameters, or the ``heads`` of a call. ``found`` says by what, if not by ``attnspec check``.
    """

    means: str
    wrong: str
    mend: str
    right: str
    wrong_given: str = ""
    right_given: str = ""
    found: str = ""
