"""Rewrite core expressions: replacement of sub-expressions, and comparisons as cases without choices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from attnspec.spec import contents
from attnspec.spec import expr as e

N = TypeVar("N", bound=e.Node)


def replace(node: N, table: Mapping[e.Node, e.Node]) -> N:
    """The node with every occurrence of the table's keys replaced; inner binders of the same name are left alone."""
    if any(type(key) is type(node) for key in table) and node in table:  # (hashing takes as long as a node is large)
        return table[node]  # type: ignore[return-value]  # a key and its value are of one kind
    if isinstance(node, (e.Any, e.All, e.Sum)):
        inner = {k: v for k, v in table.items() if k != e.Var(node.var) and node.var not in contents.free(v)}
        return type(node)(node.var, replace(node.domain, table), replace(node.body, inner))  # type: ignore[arg-type]
    return node.map(lambda part: replace(part, table))


def cases(cmp: e.Cmp) -> Iterator[tuple[tuple[e.Pred, ...], e.Cmp]]:
    """A comparison as cases without conditional values and list reads: (conditions, comparison without them)."""
    choice = _choice(cmp)
    if choice is None:
        yield (), cmp
        return
    if isinstance(choice, e.If):
        branches: list[tuple[e.Pred, e.Node]] = [(choice.cond, choice.then), (e.Not(choice.cond), choice.other)]
    else:
        branches = []
        for at, item in enumerate(choice.items):
            inner = e.Int(item) if isinstance(item, int) else e.Index(item, choice.indices[1:])
            branches.append((e.Cmp("==", choice.indices[0], e.Int(at)), inner))
    for condition, value in branches:
        for conditions, rest in cases(replace(cmp, {choice: value})):
            yield (condition, *conditions), rest


def _choice(node: e.Node) -> e.If | e.Index | None:
    """The outermost conditional value or list read of a term."""
    if isinstance(node, (e.If, e.Index)):
        return node
    for child in node.children():
        if isinstance(child, e.IntExpr) and (found := _choice(child)) is not None:
            return found
    return None
