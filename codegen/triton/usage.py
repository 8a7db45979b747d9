"""Which names generated Python mentions and makes: asked of Python's own parser, so that comments do not count."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence


def mentioned(text: str | ast.AST) -> Counter[str]:
    """How often each name stands in a text; attributes and names of arguments in calls are none.

    >>> sorted(mentioned("a = tl.load(b, mask=c)").elements())
    ['a', 'b', 'c', 'tl']
    """
    tree = ast.parse(text) if isinstance(text, str) else text
    return Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))


def made(text: str) -> set[str]:
    """The names that a text assigns."""
    nodes = ast.walk(ast.parse(text))
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def without_idle(lines: Sequence[str]) -> list[str]:
    """Lines without the assignments of single names that nothing else mentions; blocks stay as they are.

    >>> without_idle(["a = 1", "b = a", "c = 2", "print(c)"])
    ['c = 2', 'print(c)']
    """
    tree = ast.parse("\n".join(lines))
    everywhere, idle = mentioned(tree), set[int]()
    for statement in tree.body:
        match statement:
            case ast.Assign([ast.Name(name)]) if everywhere[name] == mentioned(statement)[name]:
                idle.add(statement.lineno)
    return without_idle([line for n, line in enumerate(lines, 1) if n not in idle]) if idle else list(lines)
