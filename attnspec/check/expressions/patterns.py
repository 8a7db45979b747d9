"""The patterns and attentions of a file, those that come with the package, and which of them use themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import TypeVar

from attnspec.check.expressions.collect import Report
from attnspec.check.expressions.scope import Module
from attnspec.errors.diagnostic import Diagnostic, Label
from attnspec.errors.names import circle_of_includes, defined_twice, recursion, reserved
from attnspec.errors.source import Source, Span
from attnspec.language import tree as t
from attnspec.language import words
from attnspec.language.load import load
from attnspec.language.parse import parse

_Kind = TypeVar("_Kind", bound=t.Node)


@cache
def prelude() -> Module:
    """The patterns that every file may use."""
    text = files("attnspec.language").joinpath("prelude.attn").read_text(encoding="utf-8")
    file = parse(Source("prelude.attn", text))
    return Module({p.name.name: p for p in file.patterns})


def module(file: t.File, report: Report, lost: frozenset[str] = frozenset()) -> Module:
    """What a file defines; a pattern named like one of the prelude takes its place (but not inside the prelude)."""
    seen: dict[str, Span] = {}
    patterns: dict[str, t.Pattern] = {}
    for pattern in file.patterns:
        define(pattern.name, f"the pattern `{pattern.name.name}`", seen, report)
        patterns.setdefault(pattern.name.name, pattern)
    attentions: dict[str, t.Attention] = {}
    for attention in file.attentions:
        attentions.setdefault(attention.name.name, attention)
    own = {
        name: {
            use.name: use
            for part in (pattern.body, *(p.default for p in pattern.parameters if p.default is not None))
            for use in reversed(parts(part, t.Name))
            if use.name in patterns and use.name not in {p.name.name for p in pattern.parameters}
        }
        for name, pattern in patterns.items()
    }
    included = {
        name: {part.attention.name: part.attention for part in reversed(parts(attention, t.Include))}
        for name, attention in attentions.items()
    }
    return Module(
        patterns,
        prelude(),
        _circular(own, "uses", recursion, report),
        lost,
        attentions,
        _circular(
            {name: {n: use for n, use in to.items() if n in attentions} for name, to in included.items()},
            "includes",
            circle_of_includes,
            report,
        ),
    )


@cache
def shipped_module(name: str) -> Module:
    """What the file of a shipped spec defines."""
    text, filename, _ = load(name)
    source = Source(filename, text)
    return module(parse(source), Report(source))


def define(name: t.Name, what: str, seen: dict[str, Span], report: Report) -> None:
    """Note a definition: the name must be free."""
    if name.name in words.RESERVED:
        report.add(reserved(name.span, name.name))
    elif name.name in seen:
        report.add(defined_twice(name.span, what, seen[name.name]))
    seen.setdefault(name.name, name.span)


def parts(node: t.Node, kind: type[_Kind]) -> list[_Kind]:
    """All nodes of a kind in a piece of tree, in the order written."""
    found: list[_Kind] = []
    work: list[object] = [node]
    while work:
        piece = work.pop()
        if isinstance(piece, kind):
            found.append(piece)
        if isinstance(piece, t.Node):
            work.extend(getattr(piece, name) for name in reversed(type(piece).__match_args__) if name != "span")
        elif isinstance(piece, tuple):
            work.extend(reversed(piece))
    return found


def _circular(
    edges: dict[str, dict[str, t.Name]],
    verb: str,
    mistake: Callable[[list[str], list[Label]], Diagnostic],
    report: Report,
) -> frozenset[str]:
    """The names on a circle of uses, each circle reported once."""
    broken: set[str] = set()
    done: set[str] = set()
    for root in edges:
        path: list[str] = []
        work: list[tuple[str, bool]] = [(root, True)]
        while work:  # depth first, without recursion: a chain of patterns may be long
            name, enter = work.pop()
            if not enter:
                done.add(path.pop())
            elif name in path:
                circle = path[path.index(name) :]
                if not broken & set(circle):
                    labels: list[Label] = [
                        (edges[a][b].span, f"`{a}` {verb} `{b}`") for a, b in pairwise([*circle, circle[0]])
                    ]
                    report.add(mistake(circle, labels))
                broken |= set(circle)
            elif name not in done:
                path.append(name)
                work.append((name, False))
                work.extend((next_, True) for next_ in edges[name])
    return frozenset(broken)
