"""What an expression holds: its parts, its free variables, what it reads, its size. For expressions of any depth.

>>> from attnspec.spec.expr import Add, Int, Var
>>> sorted(free(Add((Var("q"), Int(1), Var("n")))))
['n', 'q']
"""

from __future__ import annotations

from collections.abc import Iterator

from attnspec.spec import expr as e
from attnspec.spec.real import RealExpr, RealRead, Score

_VARIES = e.POSITIONS | e.SIZES | e.SLOTS


def walk(node: e.Node) -> Iterator[e.Node]:
    """A node and all its parts, each before its own parts."""
    work = [node]
    while work:
        node = work.pop()
        yield node
        work.extend(reversed(list(node.children())))


def free(node: e.Node) -> frozenset[str]:
    """The names of the variables that a node reads and does not bind itself."""
    found = set()
    work: list[tuple[e.Node, frozenset[str]]] = [(node, frozenset())]
    while work:
        node, bound = work.pop()
        if isinstance(node, e.Var):
            if node.name not in bound:
                found.add(node.name)
        elif isinstance(node, (e.Any, e.All, e.Sum)):
            work += [(node.domain, bound), (node.body, bound | {node.var})]
        else:
            work.extend((child, bound) for child in node.children())
    return frozenset(found)


def varies(node: e.Node) -> frozenset[str]:
    """What in an expression is not constant within one head of one call: positions, lengths and inputs, by name."""
    found = set()
    for part in walk(node):
        if isinstance(part, e.Var) and part.name in _VARIES:
            found.add(part.name)
        elif isinstance(part, (e.Read, e.Flag, e.Among, RealRead)):
            found.add(part.name.partition(".")[0])
    return frozenset(found)


def names(node: e.Node) -> tuple[str, ...]:
    """Everything that an expression reads, for messages: variables and inputs, in the order of the alphabet."""
    return tuple(sorted(varies(node) | free(node)))


def reads(node: e.Node) -> bool:
    """Whether an expression reads an integer or boolean input."""
    return any(isinstance(part, (e.Read, e.Flag, e.Among)) for part in walk(node))


def reads_list(node: e.Node) -> bool:
    """Whether an expression reads an entry of a list or of an input."""
    return any(isinstance(part, (e.Index, e.Read)) for part in walk(node))


def settled(real: RealExpr) -> bool:
    """Whether a real follows from literals and parameters alone."""
    return not any(isinstance(part, (Score, RealRead, e.Var, e.Read, e.Flag, e.Among)) for part in walk(real))


def measure(node: e.Node) -> tuple[int, int]:
    """How many nodes an expression has, and how many levels."""
    size, depth = 0, 0
    work = [(node, 1)]
    while work:
        node, level = work.pop()
        size += 1
        depth = max(depth, level)
        work.extend((child, level + 1) for child in node.children())
    return size, depth
