"""Find the text of a pattern: a shipped spec by its name, a file, or the text itself."""

from __future__ import annotations

import difflib
import os
from functools import cache
from importlib.resources import files
from pathlib import Path

from attnspec.language import words


@cache
def shipped() -> tuple[str, ...]:
    """The names of the specs that come with the package, sorted."""
    folder = files("attnspec.specs")
    return tuple(sorted(f.name.removesuffix(".attn") for f in folder.iterdir() if f.name.endswith(".attn")))


def load(reference: str | os.PathLike[str]) -> tuple[str, str, str | None]:
    """The text of a reference, the name to call it by in messages, and the attention named in it (or None).

    A reference is source text (it contains a brace or a line break), a path ending in ``.attn``, optionally followed by
    ``:name``, or the name of a shipped spec.

    >>> load("causal")[1:]
    ('causal.attn', None)

    Raises FileNotFoundError with a suggestion if there is no such file or spec, TypeError for what is none of them.
    """
    if not isinstance(reference, (str, os.PathLike)):
        known = "a function is written as clauses: see `attnspec help coming-from`" if callable(reference) else ""
        raise TypeError(
            f"a pattern is a shipped name, a path or source text, not {type(reference).__name__}"
            + (f"; {known}" if known else "")
        )
    reference = os.fspath(reference)
    if "{" in reference or "\n" in reference:
        return reference, "<text>", None
    path, _, name = reference.partition(":") if ".attn:" in reference else (reference, "", "")
    if path.endswith(".attn"):
        return read_text(path), path, name or None
    if len(reference.split()) > 1:
        clauses = reference if reference.split()[0] in words.CLAUSES else f"attend {reference}"
        raise FileNotFoundError(f"text needs a heading: write `attention name {{ {clauses} }}`")
    names = shipped()
    if reference in names:
        text = files("attnspec.specs").joinpath(f"{reference}.attn").read_text(encoding="utf-8")
        return text, f"{reference}.attn", None
    close = difflib.get_close_matches(reference, names, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"shipped are {', '.join(names)}."
    raise FileNotFoundError(f"there is no shipped spec {reference!r}; {hint} A path ends in .attn, text has a brace")


def read_text(path: str) -> str:
    """The text of a file. Raises FileNotFoundError, with the path, where there is none that can be read as text."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}") from None
    except UnicodeDecodeError as error:
        raise FileNotFoundError(f"{path} is not UTF-8 text: {error}") from None
    except OSError as error:
        raise FileNotFoundError(f"{path} cannot be read: {error.strerror}") from None
