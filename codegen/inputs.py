"""The inputs that a kernel reads, and their places in its argument."""

from __future__ import annotations

from attnspec import expr as e
from attnspec.real import RealRead
from attnspec.spec import Spec


def names(spec: Spec) -> dict[str, int]:
    """The name of each tensor that a kernel's predicates and score lines read, with its place, in order of reading."""
    found: dict[str, int] = {}

    def visit(node: e.Node) -> None:
        if isinstance(node, (e.Read, e.Flag, e.Among, RealRead)):
            found.setdefault(node.name, len(found))
        for child in node.children():
            visit(child)

    for branch in spec.branches:
        visit(branch.pred)
    visit(spec.score)
    return found
