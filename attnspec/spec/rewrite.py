"""Rewrite core expressions: replacement of sub-expressions."""

from __future__ import annotations

from collections.abc import Mapping
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
