"""Loops over tiles as Triton text.

>>> from attnspec.relation.loops import For, Lit, Loops, Name, Op, Visit
>>> nest = Loops((For("j", Lit(0), Op("-", (Name("i"), Lit(1))), Lit(1), (Visit(Name("j")),)),))
>>> print(statements(nest, lambda tile, pad: [f"{pad}state = visit(state, {tile})"], 0))
for j in range(as_index(0), i - 1 + 1):
    state = visit(state, j)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from attnspec.relation import loops as nest

Write = Callable[[str, str], list[str]]
"""From a tile's number and the indentation to the statements that visit it."""


def statements(loops: nest.Loops, visit: Write, depth: int) -> str:
    """Statements that visit each tile, computing in int64."""
    return "\n".join(_statements(loops.body, visit, "    " * depth))


def _statements(body: tuple[nest.Stmt, ...], visit: Write, pad: str) -> Iterator[str]:
    for stmt in body:
        match stmt:
            case nest.Visit(point):
                yield from visit(index(point), pad)
            case nest.For(var, low, high, step, inner):
                by = "" if step == nest.Lit(1) else f", {index(step)}"
                yield f"{pad}for {var} in range({_wide(low)}, {index(high)} + 1{by}):"
                yield from _statements(inner, visit, pad + "    ")
            case nest.When(cond, inner, other):
                yield f"{pad}if {index(cond)}:"
                yield from _statements(inner, visit, pad + "    ")
                if other:
                    yield f"{pad}else:"
                    yield from _statements(other, visit, pad + "    ")


def _wide(node: nest.Expr) -> str:
    """The start of a range: a literal would make the loop's variable another type in each loop."""
    return f"as_index({index(node)})" if isinstance(node, nest.Lit) else index(node)


def index(node: nest.Expr) -> str:
    """An expression of type int64, given names of this type."""
    match node:
        case nest.Lit(value):
            return str(value) if value >= 0 else f"({value})"
        case nest.Name(name):
            return name
        case nest.Op("neg", (arg,)):
            return f"-{operand(arg)}"
        case nest.Op("min" | "max" as op, args):
            function = "tl.minimum" if op == "min" else "tl.maximum"
            text = index(args[-1])
            for arg in reversed(args[:-1]):
                text = f"{function}({index(arg)}, {text})"
            return text
        case nest.Op("select", (cond, then, other)):
            return f"tl.where({index(cond)}, {index(then)}, {index(other)})"
        case nest.Op("//" | "%" as op, (left, right)):
            return f"{'floor_div' if op == '//' else 'floor_mod'}({index(left)}, {index(right)})"
        case nest.Op("and" | "or" as op, (left, right)):
            return f"{operand(left)} {'&' if op == 'and' else '|'} {operand(right)}"
        case nest.Op("+" as op, (left, right)) | nest.Op("-" as op, (left, nest.Lit() | nest.Name() as right)):
            same = isinstance(left, nest.Op) and left.op in ("+", "-", "*")
            return f"{index(left) if same else operand(left)} {op} {_term(right)}"
        case nest.Op(op, (left, right)):
            return f"{operand(left)} {op} {operand(right)}"
    raise TypeError(f"not a loop expression: {node!r}")


def _term(node: nest.Expr) -> str:
    return index(node) if isinstance(node, nest.Op) and node.op == "*" else operand(node)


def operand(node: nest.Expr) -> str:
    """The same in brackets, where it needs them beside an operator."""
    calls = ("min", "max", "select", "//", "%")
    return f"({index(node)})" if isinstance(node, nest.Op) and node.op not in calls else index(node)
