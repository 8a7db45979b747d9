"""Hypothesis strategies for specs with inputs, mixtures and head classes, as core expressions, with arrays for a call.

``input_cases()`` gives an :class:`InputCase`: predicates read integers and booleans of several shapes, inside their
tensors and outside, and multiply positions; whatever they leave open, the relation must enclose them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from attnspec.check.check import check_text
from attnspec.relation.relation import scalars
from attnspec.relation.sizes import Sizes
from attnspec.spec import expr as e
from attnspec.spec.evaluate import holds, table
from attnspec.spec.parts import Branch, Clause, Input, Order
from attnspec.spec.spec import Spec

Draw = Callable[[st.SearchStrategy[Any]], Any]
_N, _N_Q, _BATCH, _HEADS = map(e.Var, ("n", "n_q", "batch", "heads"))
INPUTS = (
    Input("doc", "int", (_BATCH, _N), "sorted"),
    Input("length", "int", (_BATCH,)),
    Input("ids", "int", (_N,)),
    Input("width", "int", (_HEADS,)),
    Input("limit", "int", ()),
    Input("each", "int", (_BATCH, _HEADS)),
    Input("row", "int", (_N_Q,)),
    Input("top", "int", (_BATCH, _HEADS, e.FloorDiv(_N, e.Int(2)), e.Int(3))),
    Input("keep", "bool", (_BATCH, _N)),
    Input("chunk", "int", (_BATCH, _HEADS)),
)
_OPS = tuple(e.COMPARE)


@dataclass(frozen=True)
class InputCase:
    """A spec with inputs, the sizes of a call and the arrays that come with it."""

    spec: Spec
    n: int
    n_q: int
    heads: int
    batch: int
    arrays: dict[str, NDArray[Any]] = field(repr=False)
    order: NDArray[np.int64] | None = None
    """The position in each slot, (batch, heads, n), of a pattern with an order of one round."""

    @property
    def sizes(self) -> Sizes:
        """The sizes of the call, with the values of scalar inputs."""
        known = scalars(self.spec, self.arrays)
        aligned = self.spec.align == "end"
        return Sizes(self.n, self.n_q, self.heads, self.heads, self.batch, aligned, scalars=known)

    def masks(self) -> list[NDArray[np.bool_]]:
        """The definition: what each branch allows, (batch, heads, n_q, n); of slots where there is an order."""
        return [self.mask(branch.pred) for branch in self.spec.branches]

    def mask(self, pred: e.Pred) -> NDArray[np.bool_]:
        """Where a predicate holds in the call."""
        env: dict[str, Any] = {table(name): array for name, array in self.arrays.items()}
        env |= {"n": self.n, "n_q": self.n_q, "heads": self.heads, "kv_heads": self.heads, "batch": self.batch}
        env["q"] = np.arange(self.n_q)[:, None] + self.sizes.first
        env["k"] = np.arange(self.n)[None, :]
        if self.spec.order is not None:
            env |= {"q_slot": env["q"], "k_slot": env["k"]}
        out = np.zeros((self.batch, self.heads, self.n_q, self.n), dtype=bool)
        for b in range(self.batch):
            for h in range(self.heads):
                if self.order is not None:
                    order = self.order[b, h]
                    env |= {"q": order[:, None], "k": order[None, :]}
                out[b, h] = holds(pred, {**env, "b": b, "h": h})
        return out


@dataclass
class _Core:
    """Draws core expressions; ``bound`` are the names that an expression may use beside the variables of a pattern."""

    draw: Draw
    positions: tuple[str, ...] = ("q", "k")
    fresh: int = 0

    def one_of(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def constant(self) -> e.IntExpr:
        return e.Int(self.draw(st.integers(-4, 9)))

    def position(self) -> e.IntExpr:
        return e.Var(self.one_of(*self.positions))

    def scalar(self) -> e.IntExpr:
        b, h = e.Var("b"), e.Var("h")
        return self.one_of(  # type: ignore[no-any-return]
            e.Read("length", (b,)), e.Read("width", (h,)), e.Read("limit", ()), e.Read("each", (b, h))
        )

    def read(self, bound: tuple[str, ...], size: int) -> e.IntExpr:
        index = self.integer(bound, size)
        kinds = ("doc", "doc", "ids", "row")
        match self.one_of(*kinds):
            case "doc":
                return e.Read("doc", (e.Var("b"), index))
            case "row":
                return e.Read("row", (e.Add((e.Var("q"), _N_Q, e.Mul(e.Int(-1), _N))),))
        return e.Read("ids", (index,))

    def integer(self, bound: tuple[str, ...], size: int) -> e.IntExpr:
        if size <= 0:
            names = [*map(e.Var, (*self.positions, *self.positions, "h", "n", *bound))]
            return self.one_of(*names, self.constant(), self.scalar())  # type: ignore[no-any-return]
        smaller = size - 1
        a = self.integer(bound, smaller)
        kinds = ("add", "scale", "product", "divide", "remainder", "least", "abs", "if", "index", "read", "read")
        match self.one_of(*kinds):
            case "add":
                return e.Add((a, e.Mul(e.Int(self.one_of(-1, 1)), self.integer(bound, smaller))))
            case "scale":
                return e.Mul(self.one_of(e.Int(-2), e.Int(3), e.Add((e.Var("h"), e.Int(1)))), a)
            case "product":
                return e.Mul(a, self.integer(bound, 0))
            case "divide" | "remainder" as kind:
                chunk = e.Read("chunk", (e.Var("b"), e.Var("h")))
                by = self.one_of(e.Int(2), e.Int(5), e.Add((e.Var("h"), e.Int(1))), chunk)
                return e.FloorDiv(a, by) if kind == "divide" else e.Mod(a, by)
            case "least":
                return self.one_of(e.Min, e.Max)((a, self.integer(bound, smaller)))  # type: ignore[no-any-return]
            case "abs":
                return e.Abs(a)
            case "if":
                return e.If(self.predicate(bound, smaller), a, self.integer(bound, smaller))
            case "index":
                return e.Index((3, 0, 2, 5), (e.Mod(e.Add((a, self.position())), e.Int(self.one_of(4, 5))),))
        return self.read(bound, smaller)

    def predicate(self, bound: tuple[str, ...], size: int) -> e.Pred:
        smaller = size - 1
        if size <= 0:
            return e.Cmp(self.one_of(*_OPS), self.integer(bound, 1), self.integer(bound, 0))
        kinds = ("compare", "compare", "same", "and", "or", "not", "iff", "any", "all", "flag", "among")
        match self.one_of(*kinds):
            case "same":
                one, other = (e.Read("doc", (e.Var("b"), e.Var(name))) for name in "qk")
                return e.Cmp(self.one_of("==", "!=", "<="), one, other)
            case "and" | "or" as word:
                args = tuple(self.predicate(bound, smaller) for _ in range(self.draw(st.integers(2, 3))))
                return e.And(args) if word == "and" else e.Or(args)
            case "not":
                return e.Not(self.predicate(bound, smaller))
            case "iff":
                return e.Iff(self.predicate(bound, smaller), self.predicate(bound, smaller))
            case "any" | "all" as word:
                self.fresh += 1
                name = f"i{self.fresh}"
                kind = e.Any if word == "any" else e.All
                over = self.one_of(e.Range(e.Int(0), e.Int(3)), e.Values((2, 0, 5)))
                return kind(name, over, self.predicate((*bound, name), smaller))
            case "flag":
                return e.Flag("keep", (e.Var("b"), self.integer(bound, smaller)))
            case "among":
                block = e.FloorDiv(e.Var("q"), e.Int(2))
                return e.Among(self.integer(bound, smaller), "top", (e.Var("b"), e.Var("h"), block))
        return e.Cmp(self.one_of(*_OPS), self.integer(bound, size), self.integer(bound, 0))

    def clauses(self, size: int, least: int = 0) -> tuple[Clause, ...]:
        count = self.draw(st.integers(least, 2))
        return tuple(Clause(self.predicate((), size), _BLANK.span) for _ in range(count))

    def spec(self, size: int) -> Spec:
        align, within = self.one_of("end", "end", "start"), self.clauses(size)
        common = replace(_BLANK, inputs=INPUTS, align=align, within=within)
        if self.one_of(True, True, False):
            return replace(common, attend=self.clauses(size))
        count = self.draw(st.integers(1, 3))
        branches = tuple(
            Branch(self.clauses(size), self.clauses(size), self.draw(st.integers(1, 3))) for _ in range(count)
        )
        return replace(common, mixture=branches)

    def arrays(self, spec: Spec, sizes: dict[str, int]) -> dict[str, NDArray[Any]]:
        found: dict[str, NDArray[Any]] = {}
        for item in spec.inputs:
            shape = tuple(_size(size, sizes) for size in item.sizes)
            seed = np.random.default_rng(self.draw(st.integers(0, 1 << 16)))
            if item.kind == "bool":
                found[item.name] = seed.random(shape) < 0.5
            else:
                values = np.asarray(seed.integers(1 if item.name == "chunk" else -2, 7, shape))  # it divides
                found[item.name] = np.sort(values, -1) if item.form == "sorted" else values
        return found

    def case(self, size: int) -> InputCase:
        spec = self.spec(size)
        n = self.draw(st.integers(1, 9))
        n_q = self.one_of(n, n, self.draw(st.integers(1, 9)))
        heads, batch = self.draw(st.integers(1, 3)), self.draw(st.integers(1, 2))
        arrays = self.arrays(spec, {"n": n, "n_q": n_q, "heads": heads, "batch": batch})
        return InputCase(spec, n, n_q, heads, batch, arrays)


_BLANK = check_text("attention case { attend true }")


def _size(size: e.IntExpr, sizes: dict[str, int]) -> int:
    from attnspec.spec.evaluate import value_of

    return int(value_of(size, sizes)[0])


@st.composite
def input_cases(draw: Draw, size: int = 2) -> InputCase:
    """A spec with inputs and a call; ``size`` bounds how deeply its predicates nest."""
    return _Core(draw).case(size)


@st.composite
def ordered_cases(draw: Draw, size: int = 2) -> InputCase:
    """The same with an order of one round, as many queries as keys, and slots in the predicates."""
    core = _Core(draw, ("q", "k", "q_slot", "k_slot", "q_slot", "k_slot"))
    case = core.case(size)
    arrays = core.arrays(case.spec, {"n": case.n, "n_q": case.n, "heads": case.heads, "batch": case.batch})
    random = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    order = np.argsort(random.random((case.batch, case.heads, case.n)), axis=-1)
    return replace(case, spec=replace(case.spec, order=Order((4,), 1, 0)), n_q=case.n, arrays=arrays, order=order)
