"""From the syntax trees that isl writes for a set to loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attnspec.relation import loops

_OPS: Mapping[str, str] = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "//",
    "fdiv_q": "//",
    "pdiv_q": "//",
    "pdiv_r": "%",
    "zdiv_r": "%",
    "minus": "neg",
    "min": "min",
    "max": "max",
    "cond": "select",
    "select": "select",
    "eq": "==",
    "le": "<=",
    "lt": "<",
    "ge": ">=",
    "gt": ">",
    "and_": "and",
    "and_then": "and",
    "or_": "or",
    "or_else": "or",
}


def _expression(node: Any, rename: Callable[[str], str]) -> loops.Expr:
    kind = node.get_type().name
    if kind == "int":
        return loops.Lit(int(node.get_val().to_python()))
    if kind == "id":
        return loops.Name(rename(node.get_id().get_name()))
    args = tuple(_expression(node.get_op_arg(i), rename) for i in range(node.get_op_n_arg()))
    return loops.Op(_OPS[node.get_op_type().name], args)


def statements(node: Any, name: str) -> tuple[loops.Stmt, ...]:
    """The statements of a node; its loops run over ``name``."""

    def rename(text: str) -> str:
        return name if text == "c0" else text

    kind = node.get_type().name
    if kind == "block":
        children = node.block_get_children()
        return tuple(s for i in range(children.n_ast_node()) for s in statements(children.get_at(i), name))
    if kind == "user":
        return (loops.Visit(_expression(node.user_get_expr().get_op_arg(1), rename)),)
    if kind == "if_":
        cond = _expression(node.if_get_cond(), rename)
        other = statements(node.if_get_else_node(), name) if node.if_has_else_node() else ()
        return (loops.When(cond, statements(node.if_get_then_node(), name), other),)
    low = _expression(node.for_get_init(), rename)
    body = statements(node.for_get_body(), name)
    if node.for_is_degenerate():
        return (loops.For(name, low, low, loops.Lit(1), body),)
    step = _expression(node.for_get_inc(), rename)
    cond = _expression(node.for_get_cond(), rename)
    assert isinstance(cond, loops.Op)
    high = cond.args[1] if cond.op == "<=" else loops.Op("-", (cond.args[1], loops.Lit(1)))
    return (loops.For(name, low, high, step, body),)
