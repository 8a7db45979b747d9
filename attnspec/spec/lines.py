r"""The lines of a spec as the language writes them.

>>> from attnspec.spec.real import RealRead
>>> print(*Writer("end", ()).branch(Branch((), (), share=RealRead("gate", (e.Var("h"),)))), sep="\n")
branch share gate[h] {
}
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from attnspec.spec import expr as e
from attnspec.spec import make
from attnspec.spec.parts import Branch, Clause, Input, Rotation, Setting
from attnspec.spec.real import RealExpr, RealRead, Score
from attnspec.spec.weights import Weights


class Weighing(Protocol):
    """What an attention and a branch of a mixture have alike: lines about vectors and scores."""

    @property
    def score(self) -> RealExpr:
        """The score of a pair."""

    @property
    def scale(self) -> float | None:
        """The factor of the dot product."""

    @property
    def rotations(self) -> tuple[Rotation, ...]:
        """What turns vectors."""

    @property
    def normalized(self) -> frozenset[str]:
        """Which vectors get unit length."""

    @property
    def weights(self) -> Weights:
        """Weights beyond softmax."""


@dataclass(frozen=True)
class Writer:
    """Writes lines of a spec: where an input of n_q entries is indexed by row, the language says the position."""

    align: str
    inputs: tuple[Input, ...]

    def branch(self, branch: Branch) -> Iterator[str]:
        """The lines of a branch of a mixture, with its braces."""
        yield " ".join(filter(None, ["branch", self.counting(branch), "{"]))
        yield from (f"    {self.clause('attend', c)}" for c in branch.attend)
        yield from (f"    {self.clause('within', c)}" for c in branch.within)
        yield from (f"    {line}" for line in self.weights(branch))
        yield "}"

    def own(self, branch: Branch) -> str:
        """How a branch counts and the lines that it has of its own, in one line."""
        return "; ".join(filter(None, [self.counting(branch), *self.weights(branch)]))

    def counting(self, branch: Branch) -> str:
        """How often a branch counts, or which share it has."""
        times = f"times {branch.times}" if branch.times != 1 else ""
        return times if branch.share is None else f"share {self.node(branch.share)}"

    def clause(self, word: str, clause: Clause) -> str:
        """A line that says which pairs there are."""
        if clause.arrow is not None:
            source, target, pred = clause.arrow
            return f"{source} -> {target}: {self.node(pred)}"
        return f"{word} {self.node(clause.pred)}"

    def weights(self, of: Weighing) -> Iterator[str]:
        """The lines about vectors, scores and weights."""
        yield from (f"normalize {name}" for name in sorted(of.normalized))
        yield from map(self._rotation, of.rotations)
        if of.scale is not None:
            yield f"scale {of.scale!r}"
        yield from of.weights.lines(self.node)
        if of.score != Score():
            yield f"score {self.node(of.score)}"

    def _rotation(self, rotation: Rotation) -> str:
        options = ", ".join(f"{key} = {self._option(value)}" for key, value in rotation.options)
        moved = (rotation.q, rotation.k) != (e.Var("q"), e.Var("k"))
        at = f" at ({self.node(rotation.q)}, {self.node(rotation.k)})" if moved else ""
        return f"rotate {rotation.kind}({options}){at}"

    def _option(self, value: Setting) -> str:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, RealExpr):
            return self.node(value)
        if isinstance(value, tuple):
            return f"[{', '.join(map(repr, value))}]"
        return value if isinstance(value, str) else repr(value)

    def node(self, node: e.Node) -> str:
        """A core expression: an input of n_q entries is indexed by position, not by row."""
        if self.align == "start":
            return str(node)
        by_row = {
            (declared.name, i)
            for declared in self.inputs
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
