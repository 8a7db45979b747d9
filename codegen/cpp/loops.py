"""Loops over tiles as C++ text. Divisions round downwards."""

from __future__ import annotations

from collections.abc import Iterator

from attnspec.codegen.expressions.statements import nest_calls
from attnspec.relation import loops as nest

SIZES = frozenset({"n", "n_q", "heads", "kv_heads", "batch", "m"})
"""Names that are members of the sizes of a call."""


def literal(value: int, kind: str) -> str:
    """A literal; plain where C++ reads it as an int, which every kind of ours can hold."""
    if abs(value) < 1 << 31:
        return str(value) if value >= 0 else f"({value})"
    return f"({kind})({value}LL)"


def statements(loops: nest.Loops, visit: str, depth: int, within: str = "", runs: bool = False) -> str:
    """Statements that call ``visit(tile)`` for each point, computing in int64_t.

    ``within`` names a span: loops need not visit what lies outside it. With ``runs`` points that follow one another are
    visited at once, by ``visit(first, last)``; there are none where the last comes before the first.
    """
    return "\n".join(_statements(loops.body, visit, depth, within, runs))


def _statements(body: tuple[nest.Stmt, ...], visit: str, depth: int, within: str, runs: bool) -> Iterator[str]:
    pad = "    " * depth
    for stmt in body:
        match stmt:
            case nest.Visit(point):
                yield f"{pad}{visit}({index(point)});"
            case nest.For(var, low, high, step, inner):
                first, last = index(low), index(high)
                run = inner == (nest.Visit(nest.Name(var)),) and step == nest.Lit(1)
                if within and run:
                    first = f"most<int64_t>({first}, {within}.begin)"
                    last = f"least<int64_t>({last}, {within}.end - 1)"
                if runs and run:
                    yield f"{pad}{visit}({first}, {last});"
                    continue
                yield (
                    f"{pad}for (int64_t {var} = {first}, {var}_end = {last}; {var} <= {var}_end; "
                    f"{var} += {index(step)}) {{"
                )
                yield from _statements(inner, visit, depth + 1, within, runs)
                yield f"{pad}}}"
            case nest.When(cond, inner, other):
                yield f"{pad}if ({index(cond)}) {{"
                yield from _statements(inner, visit, depth + 1, within, runs)
                if other:
                    yield f"{pad}}} else {{"
                    yield from _statements(other, visit, depth + 1, within, runs)
                yield f"{pad}}}"


def index(node: nest.Expr) -> str:
    """A C++ expression of type int64_t."""
    match node:
        case nest.Lit(value):
            return literal(value, "int64_t")
        case nest.Name(name):
            return f"s.{name}" if name in SIZES else name
        case nest.Op("neg", (arg,)):
            return f"(-{index(arg)})"
        case nest.Op("min" | "max" as op, args):
            return nest_calls("least<int64_t>" if op == "min" else "most<int64_t>", [index(a) for a in args])
        case nest.Op("select", (cond, then, other)):
            return f"({index(cond)} ? {index(then)} : {index(other)})"
        case nest.Op("//" | "%" as op, (left, right)):
            return f"{'floor_div' if op == '//' else 'floor_mod'}<int64_t>({index(left)}, {index(right)})"
        case nest.Op(op, (left, right)):
            return f"({index(left)} {({'and': '&&', 'or': '||'}).get(op, op)} {index(right)})"
    raise TypeError(f"not a loop expression: {node!r}")
