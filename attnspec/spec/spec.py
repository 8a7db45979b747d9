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
from attnspec.spec import contents, rewrite, writing
from attnspec.spec import expr as e
from attnspec.spec.axes import solve
from attnspec.spec.lines import Writer
from attnspec.spec.parts import Axis, Branch, Clause, Input, Order, Rotation, Value
from attnspec.spec.real import Item, Parameter, RealExpr, Reals, Score, valued
from attnspec.spec.recurrence import Recurrence
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
    recurrence: Recurrence | None = None
    """How segments follow one another, each with this pattern; None: the pattern is that of a whole sequence."""

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The softmaxes that are mixed: one where there is no mixture. Each has the common ``within`` lines."""
        if not self.mixture:
            return (Branch(self.attend, self.within),)
        return tuple(replace(b, within=(*b.within, *self.within)) for b in self.mixture)

    @property
    def shared(self) -> bool:
        """Whether the branches of its mixture have given shares, in place of weights by denominators."""
        return any(branch.share is not None for branch in self.mixture)

    @property
    def composed(self) -> bool:
        """Whether it is computed branch by branch: some branch of its mixture has a share or lines of its own."""
        return not all(branch.alike for branch in self.mixture)

    @cached_property
    def alone(self) -> tuple[Spec, ...]:
        """Each branch of the mixture as a pattern without one: its lines on top of those that hold for all.

        ``times`` and ``share`` are left to who puts them together, and so is the sink, one term of the denominators of
        all; where branches have shares each is a softmax of its own, with a sink of its own.
        """
        return tuple(
            replace(
                self,
                attend=branch.attend,
                within=branch.within,
                mixture=(),
                detached=False,
                score=rewrite.replace(branch.score, {Score(): self.score}),
                sink=self.sink if self.shared else None,
                scale=self.scale if branch.scale is None else branch.scale,
                rotations=(*self.rotations, *branch.rotations),
                normalized=self.normalized | branch.normalized,
                weights=self.weights.with_own(branch.weights),
            )
            for branch in self.branches
            if self.mixture
        )

    @property
    def calls(self) -> tuple[Spec, ...]:
        """What is computed by calls of its own: each branch where it is ``composed``, else itself."""
        return self.alone if self.composed else (self,)

    @cached_property
    def parts(self) -> tuple[Spec, ...]:
        """The same, pairs counting ``times`` times each: as a mixture of one branch where that is not once."""
        return tuple(
            one
            if branch.times == 1
            else replace(one, attend=(), within=(), mixture=(Branch(one.attend, one.within, branch.times),))
            for one, branch in zip(self.alone, self.mixture, strict=True)
        )

    @property
    def reals(self) -> tuple[RealExpr, ...]:
        """The formulas of its lines about scores and weights: those of branches too, and their shares."""
        own = [real for branch in self.mixture for real in (branch.score, branch.share)]
        weights = [real for part in self.weighings for real in part.expressions]
        return tuple(real for real in (self.score, self.sink, *own, *weights) if real is not None)

    @property
    def weighings(self) -> tuple[Weights, ...]:
        """Its lines about weights beyond softmax, and those of each branch."""
        return (self.weights, *(branch.weights for branch in self.mixture))

    @property
    def softmax_only(self) -> bool:
        """Whether there is nothing beyond softmax in it."""
        return all(part.softmax_only for part in self.weighings)

    @property
    def said_weights(self) -> str:
        """Its lines about weights, and those of branches, as text."""
        return "\n".join(dict.fromkeys(line for part in self.weighings for line in part.lines()))

    @property
    def counting(self) -> tuple[str, ...]:
        """How each branch of a mixture counts: ``times 2``, ``share gate[h]``, or nothing."""
        write = Writer(self.align, self.inputs)
        return tuple(write.counting(branch) for branch in self.mixture)

    @property
    def own_lines(self) -> tuple[str, ...]:
        """What each branch of a mixture says beside which pairs it sees; none where it is not ``composed``."""
        write = Writer(self.align, self.inputs)
        return tuple(write.own(branch) for branch in self.mixture if self.composed)

    @property
    def turns(self) -> tuple[Rotation, ...]:
        """All rotations, those of branches too."""
        return (*self.rotations, *(rotation for branch in self.mixture for rotation in branch.rotations))

    @property
    def roots(self) -> tuple[e.Node, ...]:
        """Its expressions in the order written: which pairs there are, scores and weights, and rotations."""
        preds = (clause.pred for branch in self.branches for clause in (*branch.attend, *branch.within))
        turns = (node for rotation in self.turns for node in rotation.expressions)
        return (*preds, *self.reals, *turns)

    def read_by(self, *nodes: e.Node) -> tuple[Input, ...]:
        """The inputs that expressions read, themselves or by what is derived from them."""
        read = {name for node in nodes for name in contents.varies(node)}
        return tuple(declared for declared in self.inputs if declared.name in read)

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

        Raises ValueError where axes cannot have these lengths, or that of a segment is longer than segments are.
        """
        n_q = n if n_q is None else n_q
        m = solve(self.axes, n, n_q) if self.axes else n
        if self.recurrence is not None:
            self.recurrence.require_segment(m)
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
    for root in spec.reals:
        for node in contents.walk(root):
            match node:
                case Parameter(name, value) | Item(name, value) if name:
                    found[name] = value
    places = {name: place for place, (name, _) in enumerate(spec.params)}
    return {name: found[name] for name in sorted(found, key=lambda name: places.get(name, len(places)))}


def with_values(spec: Spec) -> Spec:
    """The same with the values of real parameters in the place of their names."""
    branches = tuple(
        replace(branch, score=valued(branch.score), share=None if branch.share is None else valued(branch.share))
        for branch in spec.mixture
    )
    sink = None if spec.sink is None else valued(spec.sink)
    return replace(spec, score=valued(spec.score), sink=sink, mixture=branches)


def _lines(spec: Spec) -> Iterator[str]:
    write = Writer(spec.align, spec.inputs)
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
            yield from (f"    {line}" for line in write.branch(branch))
        yield "}"
    yield from (write.clause("attend", c) for c in spec.attend)
    yield from (write.clause("within", c) for c in spec.within)
    yield from write.weights(spec)
    if spec.sink is not None:
        yield f"sink {write.node(spec.sink)}"
    if spec.recurrence is not None:
        yield from spec.recurrence.lines()
