"""The inputs that a kernel reads, and their places in its argument."""

from __future__ import annotations

from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.real import RealRead
from attnspec.spec.spec import Spec


def names(spec: Spec) -> dict[str, int]:
    """The name of each tensor that a kernel's predicates and score lines read, with its place, in order of reading."""
    found: dict[str, int] = {}
    for root in (*(branch.pred for branch in spec.branches), spec.score):
        for node in contents.walk(root):
            if isinstance(node, (e.Read, e.Flag, e.Among, RealRead)):
                found.setdefault(node.name, len(found))
    return found
