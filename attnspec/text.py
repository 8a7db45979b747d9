"""A spec as text in the language: checked again, it gives the same spec."""

from __future__ import annotations

from collections.abc import Iterator

from attnspec.spec import expr as e
from attnspec.spec import make as s
from attnspec.spec.real import RealRead, Score
from attnspec.spec.rewrite import rebuild
from attnspec.spec.spec import Axis, Branch, Clause, Input, Rotation, Spec


def text(spec: Spec) -> str:
    """The text of a spec.

    >>> from attnspec.check.check import check_text
    >>> print(check_text("attention a { input doc: int[batch, n] sorted attend doc[q] == doc[k] score softcap(s, 9) }"))
    attention a {
        input doc: int[batch, n] sorted
        attend doc[b, q] == doc[b, k]
        score 9 * tanh(s / 9)
    }
    """
    return "\n".join([f"attention {spec.name} {{", *(f"    {line}" for line in _lines(spec)), "}"])


def _lines(spec: Spec) -> Iterator[str]:
    if spec.align == "start" and not spec.axes:
        yield "align start"
    yield from map(axis, spec.axes)
    yield from map(declaration, spec.inputs)
    if spec.order is not None:
        buckets = spec.order.buckets
        written = str(buckets[0]) if len(buckets) == 1 else str(list(buckets))
        yield f"order by lsh(buckets = {written}, rounds = {spec.order.rounds}, seed = {spec.order.seed})"
    if spec.mixture:
        yield f"mix{' weights detached' if spec.detached else ''} {{"
        for branch in spec.mixture:
            yield from (f"    {line}" for line in _branch(spec, branch))
        yield "}"
    yield from (_clause(spec, "attend", c) for c in spec.attend)
    yield from (_clause(spec, "within", c) for c in spec.within)
    yield from (f"normalize {name}" for name in sorted(spec.normalized))
    yield from (rotation(spec, r) for r in spec.rotations)
    if spec.scale is not None:
        yield f"scale {spec.scale!r}"
    if spec.score != Score():
        yield f"score {_written(spec, spec.score)}"
    if spec.sink is not None:
        yield f"sink {_written(spec, spec.sink)}"


def _branch(spec: Spec, branch: Branch) -> Iterator[str]:
    yield f"branch{f' times {branch.times}' if branch.times != 1 else ''} {{"
    yield from (f"    {_clause(spec, 'attend', c)}" for c in branch.attend)
    yield from (f"    {_clause(spec, 'within', c)}" for c in branch.within)
    yield "}"


def _clause(spec: Spec, word: str, clause: Clause) -> str:
    if clause.arrow is not None:
        source, target, pred = clause.arrow
        return f"{source} -> {target}: {_written(spec, pred)}"
    return f"{word} {_written(spec, clause.pred)}"


def axis(axis: Axis) -> str:
    """The line of an axis."""
    only = "" if axis.queries and axis.keys else " keys" if axis.keys else " queries"
    return f"axis {axis.name}[{axis.size}]{only}"


def declaration(declared: Input) -> str:
    """The line of an input."""
    sizes = f"[{', '.join(map(str, declared.sizes))}]" if declared.sizes else ""
    form = "" if declared.form == "plain" else f" {declared.form}"
    if declared.random is not None:
        form = f" random({e.Range(declared.random.low, declared.random.high)}, {declared.random.seed})"
    return f"input {declared.name}: {declared.kind}{sizes}{form}"


def rotation(spec: Spec, rotation: Rotation) -> str:
    """The line of a rotation."""
    options = ", ".join(f"{key} = {_option(value)}" for key, value in rotation.options)
    moved = (rotation.q, rotation.k) != (e.Var("q"), e.Var("k"))
    at = f" at ({_written(spec, rotation.q)}, {_written(spec, rotation.k)})" if moved else ""
    return f"rotate {rotation.kind}({options}){at}"


def _option(value: float | int | str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)


def _written(spec: Spec, node: e.Node) -> str:
    """A core expression as the language writes it: an input of n_q entries is indexed by position, not by row."""
    if spec.align == "start":
        return str(node)
    by_row = {
        (declared.name, i)
        for declared in spec.inputs
        for i, size in enumerate(declared.sizes)
        if size == e.Var("n_q")
    }  # fmt: skip
    return str(_by_position(node, by_row) if by_row else node)


def _by_position(node: e.Node, by_row: set[tuple[str, int]]) -> e.Node:
    node = rebuild(node, [_by_position(child, by_row) for child in node.children()])
    match node:
        case e.Read(name, indices) | e.Flag(name, indices) | e.Among(_, name, indices) | RealRead(name, indices):
            base = name.partition(".")[0]
            new = tuple(_undo(x) if (base, i) in by_row else x for i, x in enumerate(indices))
            if isinstance(node, e.Among):
                return e.Among(node.item, name, new)
            return type(node)(name, new)
        case e.Add((e.Read(name, _) as place, e.Var("n"), e.Mul(e.Int(-1), e.Var("n_q")))) if name.endswith(
            (".first", ".last")
        ):
            return place
    return node


def _undo(index: e.IntExpr) -> e.IntExpr:
    """A row as a position: what the checker added is at the end of the sum."""
    match index:
        case e.Add((*terms, e.Mul(e.Int(-1), e.Var("n")), e.Var("n_q"))):
            return s.add(terms)
    return index
