"""What a Triton kernel computes: the part that forward and both backward kernels share.

Each kernel has a function that visits a tile, of which there are two versions: of full tiles, without any mask, and of
partial ones (``PARTIAL``). A kernel keeps ``state``: ``start`` makes it, each visit changes it, ``end`` stores it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log2

from attnspec.codegen.plan.plan import Pass
from attnspec.codegen.triton.context import FORWARD, Context, Kind
from attnspec.codegen.triton.functions import Function
from attnspec.codegen.triton.side import Side, parts
from attnspec.spec import expr as e


@dataclass(frozen=True)
class Body:
    """A kernel of one pass; ``heads`` are those of its class, None for all."""

    kind: Kind
    pass_: Pass
    number: int
    context: Context
    heads: Sequence[int] | None

    def start(self) -> Iterator[str]:
        """Load what stays, and make the state."""
        raise NotImplementedError

    def tile(self) -> Iterator[str]:
        """Visit a tile."""
        raise NotImplementedError

    def end(self) -> Iterator[str]:
        """Store the state."""
        raise NotImplementedError

    def heads_of_inner(self) -> Iterator[str]:
        """Where the rows that move past lie, for one head: keys and values, or queries and gradients of the output."""
        yield from self.tensor("k", "K", "kv")
        yield from self.tensor("v", "V", "kv")

    def head(self, place: str) -> Iterator[str]:
        """Which head has a place in the list of those of its class, or among all that are held."""
        own, part = self.context.held.h, self.context.held.part
        if self.heads is not None:
            yield f"h = tl.load(HEADS + {place}).to(tl.int64)"
            if part:
                yield f"{own} = h - h_start"
        else:
            yield f"{own} = {place}"
            if part:
                yield f"h = {own} + h_start"

    def tensor(self, name: str, base: str, head: str | None = None) -> Iterator[str]:
        """Where the rows of a head lie in a tensor: those of the program's own, if no other is said."""
        held = self.context.held
        entry = "" if held.paged and head == "kv" else f" + {held.b} * {name}_b"
        yield f"{name}_head = {base}{entry} + {head or held.h} * {name}_h"

    @property
    def state(self) -> list[str]:
        """The names of what is kept."""
        raise NotImplementedError

    def side(self, name: str) -> Side:
        """The queries or keys."""
        size = self.pass_.tile.rows if name == "q" else self.pass_.tile.columns
        heads = self.context.heads if self.packed and name == "q" else 1
        return Side(name, self.pass_.layout, size, self.context.pos, self.context.held, heads)

    @property
    def packed(self) -> bool:
        """Whether a tile holds rows of all heads that share their keys."""
        return self.kind is FORWARD and self.context.heads > 1

    @property
    def outer(self) -> Side:
        """The side that stays."""
        return self.side(self.kind.outer)

    @property
    def inner(self) -> Side:
        """The side that moves past."""
        return self.side(self.kind.inner)

    @property
    def dims(self) -> range:
        """The parts of the head size of queries and keys."""
        return range(len(parts(self.context.dim)))

    @property
    def dims_v(self) -> range:
        """The parts of the head size of values."""
        return range(len(parts(self.context.dim_v)))

    @property
    def repeats(self) -> bool:
        """Whether a key may stand in several slots: then gradients of keys lie by slot, not by position."""
        return self.pass_.layout.order is not None

    def call(self, function: Function, **given: str) -> str:
        """A call for the pairs of a tile."""
        q, k = ("[:, None]", "[None, :]") if self.kind.outer == "q" else ("[None, :]", "[:, None]")
        places = {"q": f"q_at{q}", "k": f"k_at{k}", "q_slot": f"q_slot{q}", "k_slot": f"k_slot{k}"}
        return self.context.call(function, **places, **given)

    def zeros(self, name: str, dim: int) -> Iterator[str]:
        """Sums of the outer side, from zero."""
        for n, part in enumerate(parts(dim)):
            yield f"{name}{n} = tl.zeros(({self.outer.rows}, {part.width}), tl.float32)"

    def dot(self, to: str, left: str, right: str, which: range) -> Iterator[str]:
        """``to`` as the sum over the parts of a head of ``left @ right^T``."""
        for n in which:
            more = f", {to}" if n else ""
            yield f"{to} = tl.dot({left}{n}, tl.trans({right}{n}){more}, input_precision=PRECISION)"

    def scores_by_query(self) -> Iterator[str]:
        """Load a tile of keys and values, and score its pairs."""
        yield from self.inner.place("j")
        yield from self.mask()
        yield from self.inner.read("k", "k_head", "k_r", parts(self.context.dim), "PARTIAL")
        yield from self.inner.read("v", "v_head", "v_r", parts(self.context.dim_v), "PARTIAL")
        yield from self.dot("s", "q", "k", self.dims)
        yield from self.scores()

    def scores(self) -> Iterator[str]:
        """From products to scores: natural ones with score lines, before which ``raw`` keeps them, else those of log2.

        Differences of scores become exponents, not scores: near 1e9 these would lose what tells them apart.
        """
        if self.context.scored:
            yield "raw = s * scale"
            yield f"s = {self.call(self.context.value, s='raw')}"
        else:
            yield "s = s * (scale * LOG2E)"

    @property
    def times(self) -> float:
        """The log2 of how often each pair counts."""
        return log2(self.pass_.times)

    def mask(self) -> Iterator[str]:
        """Which pairs of a partial tile live: what is not decided there already.

        Rows of the inner side that no pair needs are then not read: they may hold what is no number.
        """
        live = "k_live[None, :]" if self.kind.outer == "q" else "k_live[:, None]"
        rest = self.pass_.tests.rest(self.pass_.pred)
        yield "if PARTIAL:"
        if rest == e.Bool(True):
            yield f"    allowed = {live}"
            return
        yield f"    allowed = {self.call(self.context.allowed(rest))} & {live}"
        yield f"    {self.kind.inner}_live = {self.kind.inner}_live & (tl.max(allowed.to(tl.int32), 0) > 0)"

    def weights(self, row: str) -> Iterator[str]:
        """P from scores and the norm of their rows; at most 1, whatever digits large scores have lost."""
        yield f"p = (s - top{row}) * UNIT - total{row}"
        yield "p = tl.exp2(tl.minimum(p, 0.0, propagate_nan=tl.PropagateNan.ALL))"
        yield "if PARTIAL:"
        yield "    p = tl.where(allowed, p, 0.0)"

    def norm(self, line: str) -> Iterator[str]:
        """What the weights of rows are relative to; infinity where a row sees nothing or is not there."""
        yield f"top = tl.load({line}, mask=q_live, other=INF)"
        yield "top = tl.where(top == -INF, INF, top)"
        less = f" - {self.times!r}  # each pair counts {self.pass_.times} times" if self.times else ""
        yield f"total = tl.load({line} + {self.context.held.lines}, mask=q_live, other=0.0){less}"

    def changes(self, delta: str) -> Iterator[str]:
        """The gradient of scores from P and dP; in masked pairs 0, whatever dP is there."""
        yield f"ds = p * (dp - {delta})"
        yield "if PARTIAL:"
        yield "    ds = tl.where(allowed, ds, 0.0)"

    @property
    def delta(self) -> str:
        """Where the deltas of the pass's branch begin."""
        return f"DELTA + {self.pass_.branch} * delta_s" if self.context.separate else "DELTA"
