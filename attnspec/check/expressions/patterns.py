"""The patterns of a file and of the prelude, and which of them use themselves."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from itertools import pairwise

from attnspec.check.expressions.collect import Report
from attnspec.check.expressions.scope import Module
from attnspec.errors.diagnostic import Label
from attnspec.errors.names import defined_twice, recursion, reserved
from attnspec.errors.source import Source, Span
from attnspec.language import tree as t
from attnspec.language import words
from attnspec.language.parse import parse


@cache
def prelude() -> Module:
    """The patterns that every file may use."""
    text = files("attnspec.language").joinpath("prelude.attn").read_text(encoding="utf-8")
    file = parse(Source("prelude.attn", text))
    return Module({p.name.name: p for p in file.patterns})


def module(file: t.File, report: Report, lost: frozenset[str] = frozenset()) -> Module:
    """The patterns of a file; a pattern named like one of the prelude takes its place (but not inside the prelude)."""
    seen: dict[str, Span] = {}
    patterns: dict[str, t.Pattern] = {}
    for pattern in file.patterns:
        define(pattern.name, f"the pattern `{pattern.name.name}`", seen, report)
        patterns.setdefault(pattern.name.name, pattern)
    return Module(patterns, prelude(), _recursive(patterns, report), lost)


def define(name: t.Name, what: str, seen: dict[str, Span], report: Report) -> None:
    """Note a definition: the name must be free."""
    if name.name in words.RESERVED:
        report.add(reserved(name.span, name.name))
    elif name.name in seen:
        report.add(defined_twice(name.span, what, seen[name.name]))
    seen.setdefault(name.name, name.span)


def uses(node: t.Node) -> list[t.Name]:
    """All names read in a piece of tree, in the order written."""
    names: list[t.Name] = []
    work: list[object] = [node]
    while work:
        piece = work.pop()
        if isinstance(piece, t.Name):
            names.append(piece)
        elif isinstance(piece, t.Node):
            work.extend(getattr(piece, name) for name in reversed(type(piece).__match_args__) if name != "span")
        elif isinstance(piece, tuple):
            work.extend(reversed(piece))
    return names


def _recursive(patterns: dict[str, t.Pattern], report: Report) -> frozenset[str]:
    """The patterns on a circle of uses, each circle reported once."""
    edges = {
        name: {
            use.name: use
            for part in (pattern.body, *(p.default for p in pattern.parameters if p.default is not None))
            for use in reversed(uses(part))
            if use.name in patterns and use.name not in {p.name.name for p in pattern.parameters}
        }
        for name, pattern in patterns.items()
    }
    broken: set[str] = set()
    done: set[str] = set()
    for root in patterns:
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
                        (edges[a][b].span, f"`{a}` uses `{b}`") for a, b in pairwise([*circle, circle[0]])
                    ]
                    report.add(recursion(circle, labels))
                broken |= set(circle)
            elif name not in done:
                path.append(name)
                work.append((name, False))
                work.extend((next_, True) for next_ in edges[name])
    return frozenset(broken)
