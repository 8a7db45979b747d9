"""A checked pattern: clauses over positions, every name resolved and every parameter bound.

>>> from attnspec.check.check import check_text
>>> spec = check_text("attention local(width = 4) { attend 0 <= q - k < width }")
>>> print(spec)
attention local {
    attend 0 <= q - k and q - k < 4
}
>>> spec.mask(n=3).astype(int)[0, 0]
array([[1, 0, 0],
       [1, 1, 0],
       [1, 1, 1]])
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from attnspec.errors.source import Span
from attnspec.spec import contents, make, writing
from attnspec.spec import expr as e
from attnspec.spec.axes import solve
from attnspec.spec.parts import Axis, Branch, Clause, Input, Order, Rotation, Setting, Value
from attnspec.spec.real import Item, Parameter, RealExpr, RealRead, Reals, Score, valued
from attnspec.spec.weights import SOFTMAX, Weights
from attnspec.spec.writing import Shown

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Spec(Shown):
    """What a pattern allows: the union of ``attend`` (every pair if there is none), restricted by each of ``within``.

    ``params`` are the values the spec was checked with; ``align`` says where query row 0 stands: with ``"end"`` row i
    has position ``i + n - n_q``, with ``"start"`` position i.
    """

    name: str
    params: tuple[tuple[str, Value], ...]
    attend: tuple[Clause, ...]
    within: tuple[Clause, ...]
    align: str
    doc: str = field(compare=False)
    span: Span = field(compare=False)
    mixture: tuple[Branch, ...] = ()
    """The branches of a mixture, which ``within`` restricts too; ``attend`` is then empty."""
    detached: bool = False
    axes: tuple[Axis, ...] = ()
    inputs: tuple[Input, ...] = ()
    order: Order | None = None
    score: RealExpr = field(default_factory=Score)
    sink: RealExpr | None = None
    scale: float | None = None
    rotations: tuple[Rotation, ...] = ()
    normalized: frozenset[str] = frozenset()
    """Which of ``q`` and ``k`` are scaled to unit length."""
    weights: Weights = SOFTMAX

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The softmaxes that are mixed: one where there is no mixture. Each has the common ``within`` lines."""
        if not self.mixture:
            return (Branch(self.attend, self.within),)
        return tuple(Branch(b.attend, (*b.within, *self.within), b.times) for b in self.mixture)

    @cached_property
    def pred(self) -> e.Pred:
        """The whole pattern as one predicate."""
        return Branch(self.attend, self.within).pred

    def offset(self, n: int, n_q: int) -> int:
        """The position of query row 0."""
        return n - n_q if self.align == "end" else 0

    def sizes(
        self, n: int, n_q: int | None = None, heads: int = 1, batch: int = 1, kv_heads: int | None = None
    ) -> dict[str, int]:
        """The sizes of a call by name, with what is solved for beside axes.

        Raises ValueError where axes cannot have these lengths.
        """
        n_q = n if n_q is None else n_q
        m = solve(self.axes, n, n_q) if self.axes else n
        kv_heads = heads if kv_heads is None else kv_heads
        return {"n": n, "n_q": n_q, "heads": heads, "kv_heads": kv_heads, "batch": batch, "m": m}

    def mask(
        self,
        n: int,
        n_q: int | None = None,
        heads: int = 1,
        batch: int = 1,
        kv_heads: int | None = None,
        inputs: Mapping[str, Any] | None = None,
    ) -> NDArray[Any]:
        """The definition: which query row may attend to which key, (batch, heads, n_q, n).

        Bool; for a mixture and for an order integers: in how many branches (``times`` included), or in how many pairs
        of slots, a pair stands. ``inputs`` holds the arrays that the spec declares, and for an order ``buckets``,
        (batch, heads, rounds, n): the bucket of each position in each round. See :mod:`attnspec.spec.meaning`.

        Raises ValueError where an input is missing or does not fit, SpecError where a divisor that depends on the head
        or the sizes is not positive.
        """
        from attnspec.spec.meaning import mask

        return mask(self, self.sizes(n, n_q, heads, batch, kv_heads), inputs or {})

    def __str__(self) -> str:
        """The text of the spec in the language: checked again, it gives the same spec."""
        reals = _reals(self)
        head = f"({', '.join(f'{name} = {writing.items(value)}' for name, value in reals.items())})" if reals else ""
        return "\n".join([f"attention {self.name}{head} {{", *(f"    {line}" for line in _lines(self)), "}"])


def _reals(spec: Spec) -> dict[str, Reals]:
    """The real parameters that scores read by name."""
    found: dict[str, Reals] = {}
    for root in (spec.score, spec.sink):
        for node in contents.walk(root) if root is not None else ():
            match node:
                case Parameter(name, value) | Item(name, value) if name:
                    found[name] = value
    places = {name: place for place, (name, _) in enumerate(spec.params)}
    return {name: found[name] for name in sorted(found, key=lambda name: places.get(name, len(places)))}


def with_values(spec: Spec) -> Spec:
    """The same with the values of real parameters in the place of their names."""
    sink = None if spec.sink is None else valued(spec.sink)
    return replace(spec, score=valued(spec.score), sink=sink)


def _lines(spec: Spec) -> Iterator[str]:
    if spec.align == "start" and not spec.axes:
        yield "align start"
    yield from map(str, spec.axes)
    yield from map(str, spec.inputs)
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
    yield from (_rotation(spec, r) for r in spec.rotations)
    if spec.scale is not None:
        yield f"scale {spec.scale!r}"
    yield from spec.weights.lines(lambda node: _written(spec, node))
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


def _rotation(spec: Spec, rotation: Rotation) -> str:
    options = ", ".join(f"{key} = {_option(spec, value)}" for key, value in rotation.options)
    moved = (rotation.q, rotation.k) != (e.Var("q"), e.Var("k"))
    at = f" at ({_written(spec, rotation.q)}, {_written(spec, rotation.k)})" if moved else ""
    return f"rotate {rotation.kind}({options}){at}"


def _option(spec: Spec, value: Setting) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, RealExpr):
        return _written(spec, value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(repr, value))}]"
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
    node = node.map(lambda part: _by_position(part, by_row))
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
            return make.add(terms)
    return index
