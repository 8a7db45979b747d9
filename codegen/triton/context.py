"""What the Triton kernels of a module share: the kinds of kernels, and calls of functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attnspec.codegen.triton import functions as triton_values
from attnspec.codegen.triton.functions import Function, Gradient
from attnspec.codegen.triton.held import HeldNames
from attnspec.codegen.triton.parameters import SCALARS
from attnspec.spec import expr as e
from attnspec.spec.real import RealExpr, Score


@dataclass(frozen=True)
class Kind:
    """Which of the three kernels: ``outer`` is the side whose tiles have a program each."""

    name: str
    outer: str
    title: str

    @property
    def inner(self) -> str:
        """The side whose tiles move past."""
        return "k" if self.outer == "q" else "q"

    @property
    def tile(self) -> str:
        """The variable that counts inner tiles: ``i`` counts those of queries, ``j`` those of keys."""
        return "j" if self.outer == "q" else "i"


FORWARD = Kind("forward", "q", "Forward")
QUERIES = Kind("queries", "q", "Backward by query tile")
KEYS = Kind("keys", "k", "Backward by key tile")


@dataclass(frozen=True)
class Context:
    """What all passes of a module share.

    ``pos`` is the type of positions, ``held`` names what the tensors hold. ``scalars`` are the reads that loops know by
    name, as functions of a head and batch entry. ``carry`` says that results are added to what is there, ``adds`` the
    same of gradients of keys, ``separate`` that branches have outputs of their own, ``shares`` that the keys of a query
    tile may be cut into parts, ``heads`` for how many heads that share their keys a tile of the forward kernel has
    room. ``predicates``, ``rows`` and ``ends`` are those for which there is a function, by their
    place.
    """

    dim: int
    dim_v: int
    pos: str
    held: HeldNames
    score: RealExpr
    value: Function
    gradient: Gradient
    scalars: Mapping[str, Function]
    carry: bool
    adds: bool
    separate: bool
    shares: bool
    heads: int
    predicates: tuple[e.Pred, ...]
    rows: tuple[e.Read, ...]
    ends: tuple[e.IntExpr, ...]

    @property
    def scored(self) -> bool:
        """Whether there are score lines."""
        return self.score != Score()

    @property
    def sums(self) -> list[int]:
        """The entries of inputs whose gradient a program sums up: those that all pairs of a head share."""
        return [n for n, entry in enumerate(self.gradient.entries) if not entry.moves]

    def allowed(self, pred: e.Pred) -> Function:
        """The function that evaluates a predicate."""
        return triton_values.allowed(pred, f"allowed_{self.predicates.index(pred)}")

    def row(self, read: e.Read) -> Function:
        """The function that finds a row of a sorted input."""
        return triton_values.row(read, f"row_{self.rows.index(read)}")

    def end(self, node: e.IntExpr) -> Function:
        """The function that finds an end of the tiles that corners leave."""
        return triton_values.integer(node, f"end_{self.ends.index(node)}", wide=True)

    def call(self, function: Function, **given: str) -> str:
        """A call of a function; sizes and heads are of the type of positions there."""
        names = {**{name: f"{name}.to({self.pos})" for name in (*SCALARS, "h", "b")}, **given}
        return f"{function.name}({', '.join(names.get(a, a) for a in function.arguments)})"
