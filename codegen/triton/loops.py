r"""Loops over tiles as Triton text: a nest as it is, or, where that can be, as runs that one loop walks through.

A loop nest of isl visits several runs of tiles, each with a loop of its own. On a GPU each copy of a tile's code costs
registers and compile time, and each loop fills its pipeline anew: with runs the code of a tile stands there once.

>>> from attnspec.relation.loops import For, Lit, Loops, Name, Op, Visit
>>> nest = Loops((For("j", Lit(0), Op("-", (Name("i"), Lit(1))), Lit(1), (Visit(Name("j")),)),))
>>> print(statements(nest, lambda tile, pad: [f"{pad}state = visit(state, {tile})"], 0))
for j in range(as_index(0), i - 1 + 1):
    state = visit(state, j)
>>> found = runs((For("j", Lit(0), Name("i"), Lit(1), (Visit(Name("j")),)), Visit(Op("+", (Name("i"), Lit(9))))))
>>> print("\n".join(walk(found, "j", lambda pad: [f"{pad}visit(j)"])))
run0 = as_index(0)
size0 = tl.maximum(0, i - run0 + 1)
run1 = i + 9
size1 = 1
for t in range(as_index(0), size0 + size1):
    j = run0 + t
    j = tl.where(t >= size0, run1 + (t - size0), j)
    visit(j)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from attnspec.relation import loops as nest

Write = Callable[[str, str], list[str]]
"""From a tile's number and the indentation to the statements that visit it."""
_ONE, _VAR = nest.Lit(1), "at"


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


@dataclass(frozen=True)
class Run:
    """The tiles ``point`` for ``at`` from ``low`` to ``high`` by ``step``.

    Only if each of ``conditions`` has the truth that stands beside it.
    """

    conditions: tuple[tuple[nest.Expr, bool], ...]
    low: nest.Expr
    high: nest.Expr
    step: nest.Expr
    point: nest.Expr

    @property
    def plain(self) -> bool:
        """Whether tiles follow one another without condition."""
        return not self.conditions and self.point == nest.Name(_VAR)


def runs(body: Sequence[nest.Stmt]) -> tuple[Run, ...] | None:
    """The runs of a loop nest; None where loops stand inside loops."""
    found: list[Run] = []
    for stmt in body:
        match stmt:
            case nest.Visit(point):
                found.append(Run((), point, point, _ONE, nest.Name(_VAR)))
            case nest.For(var, low, high, step, inner):
                for visit in inner:
                    if not isinstance(visit, nest.Visit):
                        return None
                    point = substituted(visit.point, {var: nest.Name(_VAR)})
                    found.append(Run((), low, high, step, point))
            case nest.When(cond, inner, other):
                for part, truth in ((inner, True), (other, False)):
                    below = runs(part)
                    if below is None:
                        return None
                    found += [replace(run, conditions=((cond, truth), *run.conditions)) for run in below]
    return tuple(found)


def renamed(found: Sequence[Run], names: Mapping[str, str]) -> tuple[Run, ...]:
    """The same runs with other names of variables in their bounds and conditions."""
    table = {old: nest.Name(new) for old, new in names.items()}
    return tuple(
        replace(
            run,
            conditions=tuple((substituted(cond, table), truth) for cond, truth in run.conditions),
            low=substituted(run.low, table),
            high=substituted(run.high, table),
        )
        for run in found
    )


def substituted(node: nest.Expr, table: Mapping[str, nest.Expr]) -> nest.Expr:
    """An expression with names replaced."""
    match node:
        case nest.Name(name):
            return table.get(name, node)
        case nest.Op(op, args):
            return nest.Op(op, tuple(substituted(a, table) for a in args))
    return node


def walk(found: Sequence[Run], tile: str, visit: Callable[[str], list[str]]) -> Iterator[str]:
    """One loop over all runs; ``visit`` writes the statements for a tile, given the indentation."""
    if len(found) == 1 and found[0].plain:
        run = found[0]
        by = "" if run.step == _ONE else f", {index(run.step)}"
        yield f"for {tile} in range({_wide(run.low)}, {index(run.high)} + 1{by}):"
        yield from visit("    ")
        return
    for n, run in enumerate(found):
        yield f"run{n} = {_wide(run.low)}"
        yield f"size{n} = {_size(run, f'run{n}')}"
    yield f"for t in range(as_index(0), {' + '.join(f'size{n}' for n in range(len(found)))}):"
    before = ""
    for n, run in enumerate(found):
        step = "" if run.step == _ONE else f" * {operand(run.step)}"
        place = f"run{n} + (t - {before}){step}" if before else f"run{n} + t{step}"
        if run.point != nest.Name(_VAR):
            yield f"    {_VAR}{n} = {place}"
            place = index(substituted(run.point, {_VAR: nest.Name(f"{_VAR}{n}")}))
        yield f"    {tile} = tl.where(t >= {before}, {place}, {tile})" if n else f"    {tile} = {place}"
        before = f"size{n}" if not before else f"({before.strip('()')} + size{n})"
    yield from visit("    ")


def _size(run: Run, low: str) -> str:
    """How many tiles a run has; ``low`` names its first."""
    if run.low == run.high:
        size = "1"
    else:
        length = f"{operand(run.high)} - {low}"
        size = f"tl.maximum(0, {length if run.step == _ONE else f'floor_div({length}, {index(run.step)})'} + 1)"
    conditions = " & ".join(operand(cond) if truth else f"({operand(cond)} == 0)" for cond, truth in run.conditions)
    return f"tl.where({conditions}, {size}, 0)" if conditions else size


def _wide(node: nest.Expr) -> str:
    """A start: a literal would make a variable another type in each loop."""
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
